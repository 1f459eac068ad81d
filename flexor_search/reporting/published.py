"""What others have published for a workload's model and data, to stand beside what a run finds.

Test accuracies of one plane with n_out = 20. Bits per weight are the paper's count, n_in / n_out; what a file of its
two-tap codes holds is about an eighth less. "mixed" has a rate for each stage (19/20, 16/20, 7/20).
"""

from typing import Any

import pandas as pd

PAPER = "FleXOR paper, 500 epochs"
AGAIN = "independent re-implementation, 200 epochs"

PUBLISHED = {
    ("resnet20", "cifar10"): [
        (PAPER, "1.0", 1.0, 0.9044),
        (PAPER, "0.8", 0.8, 0.8991),
        (PAPER, "0.6", 0.6, 0.8916),
        (PAPER, "mixed", 0.466, 0.8929),
        (PAPER, "0.4", 0.4, 0.8823),
        (AGAIN, "1.0", 1.0, 0.8848),
        (AGAIN, "0.8", 0.8, 0.8758),
        (AGAIN, "0.6", 0.6, 0.8711),
        (AGAIN, "mixed", 0.466, 0.8684),
        (AGAIN, "0.4", 0.4, 0.8579),
    ],
    ("resnet32", "cifar10"): [
        (PAPER, "1.0", 1.0, 0.9136),
        (PAPER, "0.8", 0.8, 0.9120),
        (PAPER, "0.6", 0.6, 0.9043),
        (PAPER, "0.4", 0.4, 0.8961),
        (AGAIN, "1.0", 1.0, 0.8907),
        (AGAIN, "0.8", 0.8, 0.8931),
        (AGAIN, "0.6", 0.6, 0.8818),
        (AGAIN, "0.4", 0.4, 0.8727),
    ],
}
"""(model, data) -> source, label, bits per weight by the paper's count, test accuracy.

Source: arXiv 2009.04126, CIFAR-10 tables, by way of an independent re-implementation that quotes them; its own figures
are the best test accuracies of single runs (github.com/sgsuh/flexor-unofficial, README).
"""


def published_for(question: dict[str, Any]) -> pd.DataFrame:
    """The published figures that a run's own can stand beside: accuracies, beside accuracies."""
    return published("" if question.get("metric") else str(question.get("workload") or ""))


def published(workload: str) -> pd.DataFrame:
    """The published figures of a workload; none of another model or data set.

    Args:
        workload: its name, such as "resnet20-cifar10".

    Returns:
        Columns source, label, bits_per_weight, accuracy.

    Example:
        >>> float(published("resnet20-cifar10")["accuracy"].max())
        0.9044
        >>> len(published("resnet20-fashion-mnist"))
        0
    """
    plain = workload.lower().replace("-", "").replace("_", "")
    rows = next((rows for (model, data), rows in PUBLISHED.items() if model in plain and data in plain), [])
    return pd.DataFrame(rows, columns=["source", "label", "bits_per_weight", "accuracy"])
