"""A size budget: bits per weight, bytes on disk, or a ratio to the float file."""

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, DecimalException

from flexor_search.errors import UsageError
from flexor_search.planning.allocation import Allocation
from flexor_search.planning.file_layout import file_layout

_UNITS = {"bpw": 1, "x": 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(bpw|x|B|kB|KiB|MB|MiB)\s*")
_FORMS = "write it as 0.7bpw (bits per weight), 48KiB, 48kB or 48000B (file on disk), or 0.03x (of the float file)"


@dataclass(frozen=True)
class Budget:
    """A limit on the size of a packed model.

    Attributes:
        text: as the user wrote it; names files.
        kind: "bpw", "bytes" or "ratio".
        value: bits per weight, bytes, or the ratio to 4 bytes for every parameter and buffer of the float model.
    """

    text: str
    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read one budget.

        Raises:
            UsageError: no number, no unit, or not above zero.

        Example:
            >>> Budget.parse("48KiB")
            Budget(text='48KiB', kind='bytes', value=49152.0)
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise UsageError(f"budget: {text!r} is not a positive number with a unit; {_FORMS}")
        unit = match[2]
        try:
            value = float(Decimal(match[1]) * _UNITS[unit])
        except DecimalException:  # an exponent beyond what a Decimal holds
            value = 0.0
        if not 0 < value < float("inf"):
            raise UsageError(f"budget: must be above zero and finite, got {text!r}; {_FORMS}")
        kind = {"bpw": "bpw", "x": "ratio"}.get(unit, "bytes")
        return cls(f"{match[1]}{unit}", kind, value)

    @property
    def key(self) -> tuple[str, float]:
        """What two texts of one limit share."""
        return self.kind, self.value

    @classmethod
    def parse_list(cls, text: str) -> tuple["Budget", ...]:
        """Read a comma-separated list, each budget once, in the order given."""
        found: dict[tuple[str, float], Budget] = {}
        for budget in map(cls.parse, text.split(",")):
            found.setdefault(budget.key, budget)
        return tuple(found.values())

    def size_of(self, allocation: Allocation, model_name: str = "") -> float:
        """The allocation's size in this budget's unit."""
        if self.kind == "bpw":
            return allocation.bits_per_weight
        file_bytes = file_layout(allocation, model_name).file_bytes
        return file_bytes if self.kind == "bytes" else file_bytes / allocation.model.float_bytes

    def fits(self, allocation: Allocation, model_name: str = "") -> bool:
        """Whether the allocation is no larger than the budget."""
        if self.kind == "ratio":  # exact: no division
            limit = self.most_file_bytes(allocation.model.float_bytes)
            return file_layout(allocation, model_name).file_bytes <= limit
        return self.size_of(allocation, model_name) <= self.value

    def most_weight_bits(self, n_weights: int) -> int:
        """The most stored weight bits that fit a budget in bits per weight, over so many searched weights."""
        most = int(self.value * n_weights)
        while round(most / n_weights, 3) > self.value:
            most -= 1
        step = 1 << max(n_weights.bit_length() - 8, 0)  # rounding lets less than 1e-3 bits per weight more in
        while step:
            while round((most + step) / n_weights, 3) <= self.value:
                most += step
            step >>= 1
        return most

    def most_file_bytes(self, float_bytes: int) -> int:
        """The largest file that fits a budget in bytes or as a ratio to a float model of so many bytes."""
        return int(self.value) if self.kind == "bytes" else int(Decimal(repr(self.value)) * float_bytes)

    def slack(self, allocation: Allocation, model_name: str = "") -> float:
        """What is left of the budget, in its unit; negative when over it."""
        return self.value - self.size_of(allocation, model_name)

    def show(self, size: float) -> str:
        """A size in this budget's unit, for messages; asked for as a budget, it is enough."""
        if self.kind == "bpw":
            return f"{size:g}bpw"
        if self.kind == "bytes":
            return f"{int(size)}B"
        return f"{Decimal(repr(size)).normalize(Context(prec=4, rounding=ROUND_CEILING)):f}x"

    def scaled(self, factor: float) -> "Budget":
        """A smaller or larger budget of the same kind, for the ladder of sizes below the one asked for."""
        if self.kind == "bytes":
            value = float(int(self.value * factor))
            return Budget(f"{int(value)}B", self.kind, value)
        value = float(f"{self.value * factor:.3g}")
        return Budget(f"{value:g}{'bpw' if self.kind == 'bpw' else 'x'}", self.kind, value)
