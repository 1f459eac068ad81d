"""A measurement and the text of its line."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.runs import Measurement, rungs_text
from flexor_search.runs.measurement import COLUMNS, OPTIONAL

from .examples import PLAIN, measurements


def as_text(measurement):
    return {name: str(value) for name, value in measurement.to_row().items()}


@given(measurements())
def test_text_and_back_changes_nothing(measurement):
    assert repr(Measurement.from_row(as_text(measurement))) == repr(measurement)  # repr: NaN is not equal to itself


def test_types_come_back_as_they_were():
    found = Measurement.from_row(as_text(replace(PLAIN, val_accuracy=math.nan)))
    assert {type(value) for value in found.to_row().values()} == {int, float, str}
    assert math.isnan(found.val_accuracy)


@pytest.mark.parametrize(
    "damage",
    [
        {"number": "one"},
        {"number": "1.0"},
        {"val_accuracy": ""},
        {"file_bytes": None},
        {"worker": None},
        {None: ["one", "too many"]},
    ],
)
def test_text_that_is_no_measurement_is_refused(damage):
    with pytest.raises((ValueError, TypeError)):
        Measurement.from_row(as_text(PLAIN) | damage)


@pytest.mark.parametrize("column", sorted(set(COLUMNS) - OPTIONAL))
def test_no_column_may_be_missing(column):
    row = as_text(PLAIN)
    del row[column]
    with pytest.raises(ValueError, match="21 columns"):
        Measurement.from_row(row)


def test_a_line_from_before_there_was_a_worker_is_read():
    row = as_text(PLAIN)
    del row["worker"]
    assert Measurement.from_row(row) == replace(PLAIN, worker="")


def test_two_trainings_are_the_same_by_allocation_phase_and_seed_alone():
    assert replace(PLAIN, number=7, kind="proposed", val_accuracy=0.1, train_seconds=9.0).key == PLAIN.key
    for change in ({"digest": "0" * 16}, {"phase": "confirm"}, {"seed": 1}):
        assert replace(PLAIN, **change).key != PLAIN.key


@given(st.dictionaries(st.integers(1, 300), st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_rungs_are_read_as_they_were_written(rungs):
    assert replace(PLAIN, rungs=rungs_text(rungs)).rung_accuracies == rungs  # every digit: trials are compared
