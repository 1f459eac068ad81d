from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import UsageError
from flexor_search.planning import Allocation, Budget, LayerSpec

from .strategies import LENET5, allocations, file_bytes


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0.7bpw", "bpw", 0.7),
        (".5bpw", "bpw", 0.5),
        ("2bpw", "bpw", 2),
        ("48KiB", "bytes", 49152),
        ("48kB", "bytes", 48000),
        ("48000B", "bytes", 48000),
        ("0.1kB", "bytes", 100),
        ("1.5MiB", "bytes", 1572864),
        ("1MB", "bytes", 1e6),
        ("1e3B", "bytes", 1000),
        ("0.03x", "ratio", 0.03),
        ("3e-2x", "ratio", 0.03),
    ],
)
def test_every_form_is_read(text, kind, value):
    assert Budget.parse(text) == Budget(text, kind, value)


NOT_BUDGETS = """
    0.7 bpw 0bpw 0.0x -1bpw +1bpw nanbpw infbpw inf 1e999B 1e-999x 1,5kB 0.7BPW 48KB 48_Ki_B 48.KiB 0x10B 1_000B ٣B
    1e9999999999999999999B 1e999999999999999999MB
"""


@pytest.mark.parametrize("text", ["", " ", "48 Ki B", *NOT_BUDGETS.split()])
def test_anything_else_is_refused_with_the_forms_that_work(text):
    with pytest.raises(UsageError, match=r"^budget: .*0\.7bpw .* 48KiB, 48kB or 48000B .* 0\.03x"):
        Budget.parse(text)


def test_spaces_around_and_inside_do_not_change_the_name():
    assert Budget.parse("  48 KiB ") == Budget.parse("48KiB")


def test_a_list_keeps_its_order_and_holds_each_budget_once():
    assert [budget.text for budget in Budget.parse_list("0.7bpw, 48KiB,0.7bpw ,0.4bpw")] == [
        "0.7bpw",
        "48KiB",
        "0.4bpw",
    ]


@pytest.mark.parametrize("text", ["", "0.7bpw,", ",0.7bpw", "0.7bpw,,1bpw", "0.4bpw,0.7"])
def test_a_list_with_a_gap_is_refused(text):
    with pytest.raises(UsageError):
        Budget.parse_list(text)


@given(allocations())
def test_bytes_are_exact(allocation):
    size = file_bytes(allocation)
    assert Budget.parse(f"{size}B").fits(allocation)
    assert not Budget.parse(f"{size - 1}B").fits(allocation)
    assert Budget.parse(f"{size}B").slack(allocation) == 0
    assert Budget.parse(f"{size - 1}B").slack(allocation) == -1


@pytest.mark.parametrize("n_in", range(1, 21))
def test_a_ratio_is_the_decimal_that_was_written_not_the_nearest_binary_number(n_in):
    model = replace(LENET5, float_elements=25_000)  # 100,000 bytes, so that five digits name every byte
    allocation = Allocation.of(model, {}, default=LayerSpec(n_in=n_in))
    size = file_bytes(allocation)
    fitting, too_small = (Budget.parse(f"{Decimal(bytes_) / 100_000}x") for bytes_ in (size, size - 1))
    assert fitting.fits(allocation)
    assert not too_small.fits(allocation)
    assert fitting.size_of(allocation) == size / 100_000


@given(allocations(), st.integers(1, 10**6))
def test_a_ratio_budget_fits_exactly_as_the_same_number_of_bytes(allocation, millionths):
    ratio = Budget.parse(f"{millionths}e-6x")
    assert ratio.fits(allocation) == (file_bytes(allocation) * 10**6 <= millionths * allocation.model.float_bytes)


@given(allocations())
def test_bits_per_weight_fit_to_the_thousandth(allocation):
    size = allocation.bits_per_weight
    if size:
        assert Budget.parse(f"{size:.3f}bpw").fits(allocation)
    if size > 0.001:
        assert not Budget.parse(f"{size - 0.001:.3f}bpw").fits(allocation)


@pytest.mark.parametrize(
    ("text", "factor", "smaller"), [("0.7bpw", 0.85, "0.595bpw"), ("48KiB", 0.5, "24576B"), ("0.03x", 0.85, "0.0255x")]
)
def test_a_smaller_budget_is_named_by_its_own_size(text, factor, smaller):
    assert Budget.parse(text).scaled(factor) == Budget.parse(smaller)


@pytest.mark.parametrize(
    ("text", "size", "shown"), [("1bpw", 0.401, "0.401bpw"), ("1kB", 1234.0, "1234B"), ("1x", 0.0321, "0.0321x")]
)
def test_a_size_is_shown_in_the_budgets_unit(text, size, shown):
    assert Budget.parse(text).show(size) == shown
