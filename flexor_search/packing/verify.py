"""Proof that a packed file gives what was trained, and checks that hold for any packed file later."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flexor_search.errors import VerificationError
from flexor_search.packing.pack import unpack_into
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.safetensors_file import load
from flexor_search.planning import Allocation, file_layout
from flexor_search.quantization import flexor_weights

LOGIT_TOLERANCE = {"float16": 1e-2, "float32": 1e-4}
"""Largest difference of a logit from the trained model's, as a share of the largest logit, by kept dtype."""


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
    trained: nn.Module, allocation: Allocation, expected: PackedModel, path: Path, plain: nn.Module, images: Tensor
) -> Checks:
    """Read a file back and prove that it gives the trained model.

    Args:
        trained: the quantized model, in memory.
        allocation: the one it was trained with.
        expected: what `pack` made of it: folded values computed in float64 and rounded once.
        path: the file that was written.
        plain: a fresh instance of the architecture, to load the file into.
        images: float32 probe images.

    Returns:
        What was checked.

    Raises:
        FormatError: the file is damaged.
        VerificationError: a bit, a value or a logit differs.
    """
    checks = Checks()
    found = load(path)
    predicted = file_layout(allocation, expected.model_name).file_bytes
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
    _logits_agree(trained, unpack_into(found, plain), images, found.kept_dtype, checks)
    return checks


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


@torch.no_grad()
def _logits_agree(trained: nn.Module, loaded: nn.Module, images: Tensor, kept_dtype: str, checks: Checks) -> None:
    trained = trained.eval().cpu()
    wanted, got = trained(images).double(), loaded(images).double()
    largest = max(float(wanted.abs().max()), 1e-6)
    share = float((wanted - got).abs().max()) / largest
    tolerance = LOGIT_TOLERANCE[kept_dtype]
    checks.add(
        share <= tolerance,
        f"logits of {len(images)} images agree within {tolerance:g} of the largest logit (measured {share:.1e})",
    )
