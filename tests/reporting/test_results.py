"""The numbers of a summary, and the sentence that is made of them."""

import math

import pytest

from flexor_search.planning import LayerSpec
from flexor_search.reporting import layer_rates, result_rows
from flexor_search.reporting.words import verdict

from .made_run import allocation, entry, result, summary


def test_rows_are_the_summary_and_the_comparisons():
    chosen, uniform, full = result_rows(summary())
    assert [row["model"] for row in (chosen, uniform, full)] == ["chosen", "uniform", "full precision"]
    assert (chosen["val_mean"], chosen["val_std"], chosen["test_mean"]) == (0.96, 0.01, pytest.approx(0.95))
    assert (chosen["bits_per_weight"], chosen["file_bytes"], chosen["seeds"], chosen["verified"]) == (0.5, 262, 3, True)
    assert chosen["gain"] == pytest.approx(0.95 - 0.93)
    assert chosen["gain_error"] == pytest.approx(math.sqrt(0.01**2 / 3 + 0.02**2 / 3))
    assert chosen["to_full"] == pytest.approx(0.95 - 0.97)
    assert chosen["to_full_error"] is None  # full precision has one seed
    assert full["val_std"] is None
    assert uniform["gain"] is None


def test_error_counts_the_seeds_of_each():
    uniform = result(0.90, 0.03, 0.7, test_accuracy={"mean": 0.9, "std": 0.03, "seeds": [1, 2, 3, 4, 5]})
    chosen, *_ = result_rows(summary(entry(uniform=uniform)))
    assert chosen["gain_error"] == pytest.approx(math.sqrt(0.01**2 / 3 + 0.03**2 / 5))


def test_where_the_test_set_was_not_read_validation_is_compared():
    unread = {"test_accuracy": None, "test_accuracy_shipped": None}
    uniform = result(0.94, 0.02, 0.7, **unread)
    chosen, *_ = result_rows(summary(entry(uniform=uniform, full_precision=None, **unread), state="interrupted"))
    assert chosen["split"] == "validation"
    assert chosen["gain"] == pytest.approx(0.96 - 0.94)
    assert chosen["to_full"] is None
    assert chosen["test_mean"] is None


def test_rows_without_anything_to_compare_with():
    (chosen,) = result_rows(summary(entry(uniform=None, full_precision=None)))
    assert chosen["gain"] is chosen["gain_error"] is chosen["to_full"] is None
    assert not chosen["is_uniform"]


def test_rows_of_several_budgets_keep_to_their_own():
    rows = result_rows(summary(entry("0.4bpw"), entry("48KiB", **result(0.97, 0.01, 0.6))))
    assert [(row["budget"], row["model"]) for row in rows] == [
        (budget, model) for budget in ("0.4bpw", "48KiB") for model in ("chosen", "uniform", "full precision")
    ]
    assert rows[3]["gain"] == pytest.approx(0.96 - 0.93)
    assert rows[0]["gain"] == pytest.approx(0.95 - 0.93)


def test_no_summary_no_rows():
    assert result_rows(None) == []
    assert layer_rates(None).empty


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "No clear difference from the uniform model on the test set: within two standard errors (3 seeds)."),
        (result(0.99, 0.001, 0.5), "Better than the uniform model on the test set, by more than two"),
        (result(0.90, 0.001, 0.5), "Worse than the uniform model on the test set, by more than two"),
        (result(0.97, None, 0.5), "+3.00 points against the uniform model on the test set; with a single seed"),
        ({"uniform": result(0.96, 0.01, 0.5)}, "Nothing that was confirmed beat the uniform model"),
        ({"uniform": None}, "There is no confirmed uniform model"),
        ({"test_accuracy": None}, "in validation accuracy, by which it was also chosen"),
        (
            {"uniform": result(0.95, 0.0, 0.5, allocation=allocation("1/2")), **result(0.96, 0.0, 0.5)},
            "+1.00 points against the uniform model on the test set; the seeds all came out the same",
        ),
        (
            {"uniform": result(0.95, None, 0.5, allocation=allocation("1/2")), **result(0.96, 0.01, 0.5)},
            "+1.00 points against the uniform model on the test set; with a single seed on one side at least, so",
        ),
    ],
    ids=["within", "better", "worse", "one seed", "uniform chosen", "no uniform", "unread", "no spread", "one-sided"],
)
def test_verdict_claims_no_more_than_the_numbers_do(changes, says):
    chosen, *_ = result_rows(summary(entry(**changes)))
    assert says in verdict(chosen)


def test_layer_rates_count_planes_and_know_kept_layers():
    layers = {
        "conv": {"family": "kept"},
        "mid": {"family": "systematic", "n_in": 8, "n_out": 20},
        "": LayerSpec("taps", 5, 10, n_planes=2).to_json(),
        "head": {"family": "kept"},
    }
    body = {"kept_dtype": "float16", "layers": layers, "not_searched": ["conv"]}
    table = layer_rates(summary(entry(allocation=body))).set_index("layer")
    assert list(table.index) == ["conv", "mid", "", "head"]
    assert math.isnan(table.loc["conv", "rate"])
    assert table.loc["mid", "rate"] == pytest.approx(0.4)
    assert table.loc["", "rate"] == pytest.approx(1.0)
    assert list(table["label"]) == ["kept", "8/20", "2x5/10 taps", "kept"]
    assert list(table["searched"]) == [False, True, True, True]
