"""What one layer is stored as: a concrete code per plane, or the weights themselves."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from flexor_search.codes import FAMILIES, XorCode, make_code
from flexor_search.codes.xor_code import Taps
from flexor_search.errors import UsageError, nearest

MAX_N_OUT = 256


@dataclass(frozen=True)
class LayerSpec:
    """How a layer's weights are stored; names concrete codes, so that its size is known.

    Attributes:
        family: a code family, "matrix" for a code given by the user, or "kept" for weights stored as they are.
        n_in: bits trained per slice and plane; the paper's count. The file stores the code's rank.
        n_out: weights per slice.
        n_planes: binary codes per weight; plane p is drawn with seed code_seed + p.
        n_tap: ones per XOR row.
        code_seed: seed of the code.
        matrix: the rows' taps of a code given by the user, else None.

    Raises:
        UsageError: an unknown family or a number out of range.
    """

    family: str = "systematic"
    n_in: int = 20
    n_out: int = 20
    n_planes: int = 1
    n_tap: int = 2
    code_seed: int = 0
    matrix: Taps | None = None

    def __post_init__(self) -> None:
        if self.family == "kept":
            return
        if self.family not in (*FAMILIES, "matrix"):
            raise UsageError(f"family: {self.family!r} is not a code family; {nearest(self.family, FAMILIES)}")
        if (self.family == "matrix") != (self.matrix is not None):
            raise UsageError("matrix: goes with family 'matrix', and only with it")
        if not 1 <= self.n_in <= self.n_out <= MAX_N_OUT:
            raise UsageError(
                f"rate: needs 1 <= n_in <= n_out <= {MAX_N_OUT}, got {self.n_in}/{self.n_out}; "
                "write a rate as '12/20' for 12 stored bits per 20 weights"
            )
        if self.matrix is not None and len(self.matrix) != self.n_out:
            raise UsageError(f"matrix: must have n_out = {self.n_out} rows, got {len(self.matrix)}")
        if not 1 <= self.n_planes <= 8:
            raise UsageError(f"n_planes: must be from 1 to 8, got {self.n_planes}")
        if self.n_tap < 1 or self.code_seed < 0:
            raise UsageError(
                f"n_tap: must be at least 1 and code_seed not negative, got {self.n_tap} and {self.code_seed}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: whoever unpickles it makes the codes again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_code(cls, code: XorCode, n_planes: int = 1) -> "LayerSpec":
        """The spec of a code given by the user, used in every plane."""
        return cls("matrix", code.n_in, code.n_out, n_planes, matrix=code.taps)

    @property
    def is_kept(self) -> bool:
        """Whether the weights are stored as they are."""
        return self.family == "kept"

    @cached_property
    def codes(self) -> tuple[XorCode, ...]:
        """The code of each plane; none for a kept layer."""
        return _codes(self)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Stored bits per slice of each plane."""
        return tuple(code.rank for code in self.codes)

    @cached_property
    def rate(self) -> float:
        """Stored bits per weight at the codes' rank, before padding; 0 for a kept layer, whose rate is its dtype's."""
        return sum(self.ranks) / self.n_out if self.codes else 0.0

    @property
    def nominal_rate(self) -> float:
        """The paper's count: n_planes * n_in / n_out."""
        return self.n_planes * self.n_in / self.n_out if self.codes else 0.0

    @property
    def label(self) -> str:
        """A short name for tables: "12/20", "2x8/20", "12/20 taps", "kept"."""
        if self.is_kept:
            return "kept"
        planes = f"{self.n_planes}x" if self.n_planes > 1 else ""
        family = "" if self.family == "systematic" else f" {self.family}"
        return f"{planes}{self.n_in}/{self.n_out}{family}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields that differ from the defaults, and always the family."""
        if self.is_kept:
            return {"family": self.family}
        default = LayerSpec()
        fields = ("n_planes", "n_tap", "code_seed", "matrix")
        body = {name: getattr(self, name) for name in fields if getattr(self, name) != getattr(default, name)}
        return {"family": self.family, "n_in": self.n_in, "n_out": self.n_out} | body

    @classmethod
    def from_json(cls, body: Any) -> "LayerSpec":
        """Undo `to_json`.

        Raises:
            UsageError: not such an object.
        """
        if not isinstance(body, dict) or not set(body) <= set(cls.__dataclass_fields__):
            raise UsageError(f"allocation: a layer must be an object of LayerSpec fields, got {body!r}")
        body = dict(body)
        if body.get("family") == "kept":
            return KEPT
        try:
            if body.get("matrix") is not None:
                body["matrix"] = tuple(tuple(row) for row in body["matrix"])
            return cls(**body)
        except TypeError as error:
            raise UsageError(f"allocation: a layer must be an object of LayerSpec fields, got {body!r}") from error


KEPT = LayerSpec("kept", 0, 0, 0)
"""The weights stored as they are, in the allocation's kept_dtype."""


@lru_cache(maxsize=4096)
def _codes(spec: LayerSpec) -> tuple[XorCode, ...]:
    if spec.is_kept:
        return ()
    if spec.matrix is not None:
        try:
            return (XorCode(spec.n_in, spec.matrix),) * spec.n_planes
        except ValueError as error:
            raise UsageError(f"matrix: {error}") from error
    return tuple(
        make_code(spec.family, spec.n_in, spec.n_out, n_tap=spec.n_tap, seed=spec.code_seed + plane)
        for plane in range(spec.n_planes)
    )
