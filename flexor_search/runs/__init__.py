"""What was found: measurements and the run folder that holds everything. No torch here."""

from flexor_search.runs.measurement import (
    CONFIRM,
    DONE,
    FAILED,
    FULL_PRECISION,
    MAX_SEEDS,
    SEARCH,
    STOPPED,
    Measurement,
    rungs_text,
)
from flexor_search.runs.metric import ACCURACY, MetricWords
from flexor_search.runs.run import READINGS, Run
from flexor_search.runs.storage_name import JOURNAL, POSTGRESQL, StorageName

__all__ = [
    "ACCURACY",
    "CONFIRM",
    "DONE",
    "FAILED",
    "FULL_PRECISION",
    "JOURNAL",
    "MAX_SEEDS",
    "POSTGRESQL",
    "READINGS",
    "SEARCH",
    "STOPPED",
    "Measurement",
    "MetricWords",
    "Run",
    "StorageName",
    "rungs_text",
]
