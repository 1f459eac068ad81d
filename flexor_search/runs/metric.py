"""What a run's `val_accuracy` and `test_accuracy` are called and how they are written: accuracy, or a user's metric."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricWords:
    """How values of a metric are written.

    Attributes:
        reference: "module:function" of a metric of one's own, "" for accuracy.
    """

    reference: str = ""

    @classmethod
    def of(cls, question: dict[str, Any]) -> "MetricWords":
        """Of a run's question; one of an older version has no such entry."""
        found = question.get("metric", "")
        return cls(found if isinstance(found, str) else "")

    @property
    def name(self) -> str:
        """In a sentence: "accuracy", or the function's name."""
        return self.reference.rpartition(":")[2] or "accuracy"

    @property
    def scale(self) -> float:
        """What values are multiplied by to be shown: accuracy is told in percent, a metric as it is."""
        return 1.0 if self.reference else 100.0

    def heading(self, split: str) -> str:
        """Of a column.

        Example:
            >>> MetricWords().heading("test"), MetricWords("my.module:r2").heading("test")
            ('test %', 'test r2')
        """
        return f"{split} {self.name}" if self.reference else f"{split} %"

    def number(self, value: float) -> str:
        """A value, or a spread, as it stands in a column.

        Example:
            >>> MetricWords().number(0.92041), MetricWords("my.module:r2").number(0.92041)
            ('92.04', '0.9204')
        """
        return f"{value:.4g}" if self.reference else f"{100 * value:.2f}"

    def text(self, value: float) -> str:
        """A value in a sentence.

        Example:
            >>> MetricWords().text(0.92041), MetricWords("my.module:r2").text(0.92041)
            ('92.04 %', 'r2 0.9204')
        """
        return f"{self.name} {self.number(value)}" if self.reference else f"{self.number(value)} %"


ACCURACY = MetricWords()
"""The default."""
