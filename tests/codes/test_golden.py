"""Codes drawn today are those drawn by every earlier version (tests/golden/make_codes.py wrote them)."""

import json
from pathlib import Path

import pytest

from flexor_search.codes import make_code

CASES = json.loads((Path(__file__).parents[1] / "golden" / "codes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{family}-{n_in}-{n_out}-{n_tap}-{seed}".format(**case))
def test_the_code_is_the_golden_one(case):
    arguments = {key: value for key, value in case.items() if key != "taps"}
    assert [list(taps) for taps in make_code(**arguments).taps] == case["taps"]
