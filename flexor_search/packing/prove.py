"""Proof that a packed file gives the model that was trained, and what each of its economies changed on the way."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from flexor_search.packing.verify import Checks, check_decoders_agree
from flexor_search.planning import Allocation, Saving, file_layout, savings
from flexor_search.planning.savings import CODE_TABLE, CONTAINER, FOLDING, RECODING, ROUNDING
from flexor_search.quantization import flexor_weights

TOLERANCES = {RECODING: 0.0, CODE_TABLE: 0.0, CONTAINER: 0.0, FOLDING: 1e-4, ROUNDING: 1e-2}
"""Largest difference that an economy should make to a logit, as a share of the largest logit. More is told, not
refused: inputs far from zero in front of a batch norm, or large logits that cancel, are the model's nature."""

WRONG_FOLDING = 0.05
"""A difference that no rounding makes: a batch norm was folded that should not have been."""


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
        trained: the quantized model, in memory; left on the CPU in evaluation mode.
        allocation: the one it was trained with.
        path: the file that was written.
        build: makes a fresh instance of the architecture.
        images: float32 probe images.
        model_name: as it was packed with.

    Returns:
        What was checked, what each economy of the file saves and changes, and the model as the file gives it.

    Raises:
        FormatError: the file is damaged.
        VerificationError: a bit, a value or a logit differs. How much rounding moves logits is told in the steps.
    """
    checks = Checks()
    found, expected = load(path), pack(trained, allocation, model_name)
    predicted = file_layout(allocation, model_name).file_bytes
    checks.add(path.stat().st_size == predicted, f"file holds the predicted {predicted} bytes; its SHA-256 matches")
    check_decoders_agree(found, checks)
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
        Step(saving, differences[saving.name], TOLERANCES[saving.name]) for saving in savings(allocation, model_name)
    )
    return Proof(checks, steps, loaded)


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
        module = trained.get_submodule(layer.name)
        scale = module.parametrizations.weight.original1  # type: ignore[union-attr]
        exact = replace(layer, scale=scale.detach().cpu().numpy())  # type: ignore[operator]
        weight = torch.from_numpy(exact.weight("reference"))
        # In the trained weight's own memory format, as all others are: another one is another order of adding up.
        state[layer.weight_name] = torch.empty_like(module.weight.detach()).copy_(weight)  # type: ignore[operator]
    return lambda images: functional_call(plain.eval(), state, (images,))


@torch.no_grad()
def _differences(models: Sequence[Callable[[Tensor], Tensor]], images: Tensor, checks: Checks) -> dict[str, float]:
    """The largest logit difference that each economy makes, as a share of the largest logit.

    Args:
        models: the trained one, then with re-coded weights, with folded batch norms, rounded, and read from the file.
        images: float32 probe images.
        checks: notes what holds.
    """
    trained, recoded, folded, rounded, loaded = (_logits(model, images) for model in models)
    repeatable = torch.equal(trained, recoded) or torch.equal(trained, _logits(models[0], images))
    finite = trained[torch.isfinite(trained)].abs()
    largest = max(float(finite.max()) if len(finite) else 0.0, 1e-6)

    def difference(one: Tensor, other: Tensor) -> float:
        apart = torch.where(one == other, 0.0, (one.double() - other.double()).abs())  # equal infinities do not differ
        return float(torch.nan_to_num(apart, nan=torch.inf).max()) / largest

    found = {
        RECODING: difference(trained, recoded),
        CODE_TABLE: difference(rounded, loaded),
        CONTAINER: difference(rounded, loaded),
        FOLDING: difference(recoded, folded),
        ROUNDING: difference(folded, rounded),
    }
    count = f"logits of {len(images)} images"
    if repeatable:  # a model that answers anew every time is proven by its weights alone
        for name, same in ((RECODING, torch.equal(trained, recoded)), (CONTAINER, torch.equal(rounded, loaded))):
            checks.add(same, f"{count} are those before {name}, bit for bit")
        moved = found[FOLDING]
        checks.add(moved <= WRONG_FOLDING, f"{count} after folding differ by {moved:.1e} of the largest")
    return found


def _logits(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a model answers; one that draws random numbers draws the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return model(images.clone())  # it may work in place
