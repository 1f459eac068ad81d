"""Proof that a packed file gives what was trained, and checks that hold for any packed file later."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from flexor_search.errors import VerificationError
from flexor_search.packing.pack import pack
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.safetensors_file import load
from flexor_search.packing.unpack import unpack_into
from flexor_search.planning import Allocation, Saving, file_layout, savings
from flexor_search.quantization import flexor_weights

FOLDING_TOLERANCE, ROUNDING_TOLERANCE = 1e-4, 1e-2
"""Largest difference of a logit that folding batch norms in float32, and rounding to float16, may make, as a share of
the largest logit. Folding further off is an error of ours; rounding further off is the model's nature, and is told."""

_TOLERANCES = {
    "recoding": 0.0,
    "code table": 0.0,
    "container": 0.0,
    "folding": FOLDING_TOLERANCE,
    "rounding": ROUNDING_TOLERANCE,
}


@dataclass
class Checks:
    """What was checked, in words; a check that fails raises instead."""

    passed: list[str] = field(default_factory=list)

    def add(self, holds: bool, text: str) -> None:
        """Note a check that holds.

        Raises:
            VerificationError: it does not hold.
        """
        if not holds:
            raise VerificationError(f"verify: failed: {text}")
        self.passed.append(text)


@dataclass(frozen=True)
class Step:
    """One economy of the file: what it saves, and what it changes.

    Attributes:
        saving: the bytes.
        logit_difference: largest difference that it makes to a logit of the probe images, as a share of the largest.
        tolerance: what that may be; 0 where the logits must be equal bit for bit.
    """

    saving: Saving
    logit_difference: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the difference is tolerated."""
        return self.logit_difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        measured = {"logit_difference": self.logit_difference, "tolerance": self.tolerance, "within": self.within}
        return asdict(self.saving) | measured


@dataclass(frozen=True)
class Proof:
    """That a file gives the trained model.

    Attributes:
        checks: what was checked.
        steps: the file's economies.
        loaded: the model as the file gives it, in evaluation mode.
    """

    checks: Checks
    steps: tuple[Step, ...]
    loaded: nn.Module


def verify_file(path: Path) -> Checks:
    """Check a packed file by itself: container, hash, tables, and that both decoders agree on every weight bit.

    Raises:
        FormatError: the file is damaged or no packed file.
        VerificationError: the decoders disagree.
    """
    checks = Checks()
    packed = load(path)
    checks.add(True, "container is whole and its SHA-256 matches every byte")
    checks.add(True, "tables describe the tensors exactly; all scales and kept values are finite")
    _decoders_agree(packed, checks)
    return checks


def prove(
    trained: nn.Module,
    allocation: Allocation,
    path: Path,
    build: Callable[[], nn.Module],
    images: Tensor,
    model_name: str = "",
) -> Proof:
    """Read a file back and prove that it gives the trained model.

    Args:
        trained: the quantized model, in memory.
        allocation: the one it was trained with.
        path: the file that was written.
        build: makes a fresh instance of the architecture.
        images: float32 probe images.
        model_name: as it was packed with.

    Returns:
        What was checked, what each economy of the file saves and changes, and the model as the file gives it.

    Raises:
        FormatError: the file is damaged.
        VerificationError: a bit, a value or a logit differs. Logits that differ by rounding to the kept dtype, and by
            nothing else, are told in the steps instead.
    """
    checks = Checks()
    found, expected = load(path), pack(trained, allocation, model_name)
    predicted = file_layout(allocation, model_name).file_bytes
    checks.add(path.stat().st_size == predicted, f"file holds the predicted {predicted} bytes; its SHA-256 matches")
    _decoders_agree(found, checks)
    _signs_equal(trained, found, checks)
    scales = all(
        ours.name == theirs.name and np.array_equal(ours.scale, theirs.scale)
        for ours, theirs in zip(expected.layers, found.layers, strict=True)
    )
    checks.add(scales, f"scales equal the folded float64 values rounded once to {found.kept_dtype}")
    same = expected.kept.keys() == found.kept.keys() and expected.exact.keys() == found.exact.keys()
    same = same and all(np.array_equal(value, found.kept[name]) for name, value in expected.kept.items())
    same = same and all(np.array_equal(value, found.exact[name]) for name, value in expected.exact.items())
    checks.add(same, f"{len(found.kept) + len(found.exact)} biases and kept tensors equal theirs, rounded once")
    unrounded = pack(trained, replace(allocation, kept_dtype="float32"), model_name)
    loaded = unpack_into(found, build())
    models = (
        trained.eval().cpu(),
        _with_weights(trained, found, build()),
        unpack_into(unrounded, build()),
        unpack_into(expected, build()),
        loaded,
    )
    differences = _differences(models, images, checks)
    steps = tuple(
        Step(saving, differences[saving.name], _TOLERANCES[saving.name]) for saving in savings(allocation, model_name)
    )
    return Proof(checks, steps, loaded)


def _decoders_agree(packed: PackedModel, checks: Checks) -> None:
    total = 0
    for layer in packed.layers:
        reference, fast = layer.weight_bits("reference"), layer.weight_bits("fast")
        if not np.array_equal(reference, fast):
            raise VerificationError(f"verify: failed: the decoders disagree on layer {layer.name}")
        total += reference.size
    checks.add(True, f"reference and fast decoder agree on all {total} weight bits of {len(packed.layers)} layers")


def _signs_equal(trained: nn.Module, found: PackedModel, checks: Checks) -> None:
    weights, total = flexor_weights(trained), 0
    if {layer.name for layer in found.layers} != set(weights):
        raise VerificationError("verify: failed: the file's layers are not the trained ones")
    for layer in found.layers:
        encrypted = trained.get_submodule(layer.name).parametrizations.weight.original0  # type: ignore[union-attr]
        bits = weights[layer.name].weight_bits(encrypted.detach()).cpu().numpy()  # type: ignore[arg-type]
        if not np.array_equal(bits, layer.weight_bits("reference")):
            raise VerificationError(f"verify: failed: decoded signs of layer {layer.name} are not the trained ones")
        total += bits.size
    checks.add(True, f"all {total} decoded signs equal the trained ones bit for bit")


def _with_weights(trained: nn.Module, found: PackedModel, plain: nn.Module) -> Callable[[Tensor], Tensor]:
    """The trained model with each weight made of the file's re-coded bits and the trained, unrounded scales."""
    values = trained.state_dict(keep_vars=True)  # so that tied tensors stay one
    state = {name: value for name, value in values.items() if ".parametrizations." not in f".{name}"}
    for layer in found.layers:
        scale = trained.get_submodule(layer.name).parametrizations.weight.original1  # type: ignore[union-attr]
        exact = replace(layer, scale=scale.detach().cpu().numpy())  # type: ignore[operator]
        state[layer.weight_name] = torch.from_numpy(exact.weight("reference"))
    # The very tensors, not copies: another memory format is another order of adding up.
    return lambda images: functional_call(plain.eval(), state, (images,))


@torch.no_grad()
def _differences(models: Sequence[Callable[[Tensor], Tensor]], images: Tensor, checks: Checks) -> dict[str, float]:
    """The largest logit difference that each economy makes, as a share of the largest logit.

    Args:
        models: the trained one, then with re-coded weights, with folded batch norms, rounded, and read from the file.
        images: float32 probe images.
        checks: notes what holds.
    """
    trained, recoded, folded, rounded, loaded = (model(images) for model in models)
    repeatable = torch.equal(trained, recoded) or torch.equal(trained, models[0](images))
    largest = max(float(trained.abs().max()), 1e-6)

    def difference(one: Tensor, other: Tensor) -> float:
        return float((one.double() - other.double()).abs().max()) / largest

    found = {
        "recoding": difference(trained, recoded),
        "code table": difference(rounded, loaded),
        "container": difference(rounded, loaded),
        "folding": difference(recoded, folded),
        "rounding": difference(folded, rounded),
    }
    count = f"logits of {len(images)} images"
    if repeatable:
        for name, same in (("recoding", torch.equal(trained, recoded)), ("container", torch.equal(rounded, loaded))):
            checks.add(same, f"{count} are those before {name}, bit for bit")
    folds = found["folding"] <= FOLDING_TOLERANCE
    checks.add(folds, f"{count} after folding agree within {FOLDING_TOLERANCE:g} of the largest")
    return found
