"""The sizes that the documentation tells, of files really written."""

import pytest

from benchmarks.sizes import CODES, measure


@pytest.mark.parametrize("code", CODES)
def test_resnet20_at_eight_bits_of_twenty_is_little_more_than_what_it_holds(code):
    found = measure("resnet20", code)
    assert found.file_bytes == found.predicted_bytes
    assert found.file_bytes <= 1.10 * (found.payload_bytes + found.scale_bytes + found.kept_bytes)
    assert found.payload_bytes * 8 / found.weights == pytest.approx(0.4 if code == "systematic" else 0.35, abs=0.003)


def test_lenet5_too():
    found = measure("lenet5", "systematic")
    assert found.file_bytes == found.predicted_bytes
    assert found.over_parts < 1.02
