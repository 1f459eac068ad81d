"""Checks that hold for any packed file, at any time, by the file alone."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flexor_search.errors import VerificationError
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.safetensors_file import load


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
    check_decoders_agree(packed, checks)
    return checks


def check_decoders_agree(packed: PackedModel, checks: Checks) -> None:
    """Note that the reference and the fast decoder give the same weight bits.

    Raises:
        VerificationError: they do not.
    """
    total = 0
    for layer in packed.layers:
        reference, fast = layer.weight_bits("reference"), layer.weight_bits("fast")
        if not np.array_equal(reference, fast):
            raise VerificationError(f"verify: failed: the decoders disagree on layer {layer.name}")
        total += reference.size
    checks.add(True, f"reference and fast decoder agree on all {total} weight bits of {len(packed.layers)} layers")
