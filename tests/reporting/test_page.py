"""The report as a page: self-contained, escaped, bounded in size, and there at any time of a run."""

import re

import pytest
from plotly.offline import get_plotlyjs

from flexor_search.reporting import tables, write_report
from flexor_search.runs import Run

from .made_run import (
    PACKING,
    confirmed,
    entry,
    example,
    failed,
    large,
    made_run,
    measured,
    result,
    step,
    stopped,
    summary,
)


def page(run) -> str:
    """The written report."""
    return write_report(run).read_text(encoding="utf-8")


def own_text(run) -> str:
    """The report without the plotly library."""
    return page(run).replace(get_plotlyjs(), "")


def words(run) -> str:
    """What a reader sees: no scripts, no tags."""
    return text_of(own_text(run))


def text_of(page):
    """The same of any page."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_it_needs_nothing_from_outside_and_holds_plotly_once(tmp_path):
    run = example(tmp_path)
    assert page(run).count(get_plotlyjs()) == 1
    text = own_text(run)
    assert "default-src 'none'" in text
    assert not re.search(r"""\b(src|href|action)\s*=\s*["']?(?!["']?(data:|#))""", text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(text) < 110_000


def test_sections_stand_in_the_order_of_the_readers_questions(tmp_path):
    titles = re.findall("<h2>(.*?)</h2>", own_text(example(tmp_path)))
    assert titles == [
        "Budget 0.7bpw",
        "Beside uniform and full precision",
        "Accuracy against size",
        "The rate of each layer",
        "Layer by layer",
        "Where the bytes go",
        "Smaller for nothing",
        "Progress of the search",
        "How it was made",
        "All measurements",
    ]


def test_what_came_out_is_at_the_top(tmp_path):
    text = words(example(tmp_path))
    start = text[: text.index("Accuracy against size")]
    for part in (
        "The most accurate model within 0.7bpw",
        "13 trainings (6 in the search, 7 to confirm, 1 stopped early, 1 failed) that took 13 s",
        "file read back, verified bit for bit",
        "test accuracy 95.00 % ± 1.00",
        "262 bytes",
        "+2.00 ± 1.29 points",
        "\N{MINUS SIGN}2.00 points",
        "at 1/16 of its 4,200 bytes",
        "chosen 0.5 262 96.00 ± 1.00 95.00 ± 1.00",
        "uniform 0.7 287 94.00 ± 2.00 93.00 ± 2.00",
        "full precision 32 4,200 98.00 97.00",
    ):
        assert part in start


def test_what_every_economy_saves_and_changes(tmp_path):
    text = words(example(tmp_path))
    assert "codes stored at their rank &lt;GF(2)&gt; 1,234 equal bit for bit" in text
    assert "scales and kept tensors in float16 567 within 3.2e-04" in text
    run = Run.open(tmp_path)
    run.question["budgets"] = ["0.7bpw", "0.3bpw", "0.2bpw"]
    off = step("rounding", "scales and kept tensors in float16", 567, 0.2, 1e-2)
    run.write_summary(
        summary(entry(), entry("0.3bpw", packing=PACKING | {"steps": [off]}), entry("0.2bpw", packing=None))
    )
    assert "scales and kept tensors in float16 567 567 off by 2.0e-01 (0.3bpw)" in words(run)
    assert "codes stored at their rank &lt;GF(2)&gt; 1,234 equal bit for bit" in words(run)
    run.write_summary(summary(entry(packing=None)))
    assert "Smaller for nothing" not in words(run)


def test_every_budget_gets_its_part(tmp_path):
    run = example(tmp_path)
    run.question["budgets"] = ["0.7bpw", "48KiB"]
    run.write_summary(summary(entry("0.7bpw"), entry("48KiB", verified=False, uniform=None, full_precision=None)))
    text = own_text(run)
    assert text.count('<article class="outcome">') == 2
    assert text.count('<tr class="chosen">') == 2
    assert text.count('<tr class="group">') == 2
    assert text.count('class="bar"') == 2
    assert "file not verified" in text
    assert "not measured" in text


def test_rates_stand_in_network_order_with_every_layer(tmp_path):
    run = large(tmp_path, n_trials=20)
    table = re.search(r'<table class="heat".*?</table>', own_text(run), re.DOTALL)[0]
    layers = re.findall(r'scope="row">(.*?)</th>', table)
    assert layers == ["first&lt;script&gt;", *(f"stage{i // 4}.{i % 4}.conv" for i in range(21))]
    cells = re.findall(r"--share:([\d.]+)\" title=\"[^\"]*\">([^<]*)<", table)
    assert cells[:4] == [("0.000", "kept")] * 4
    assert cells[4:8] == [("0.300", "6/20"), ("0.500", "10/20"), ("0.900", "18/20"), ("0.700", "14/20")]


def test_names_from_users_are_escaped_everywhere(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>'\"&amp;<!--"
    chosen = entry(evil, **result(0.9, 0.1, 0.5, allocation={"kept_dtype": "f", "layers": {evil: {"family": "kept"}}}))
    measurements = [
        measured(0, 0.9, 0.5, label=evil, kind=evil),
        measured(1, 0.9, 0.6, label=evil, kind="uniform", reason=evil, state="failed"),
        *confirmed(2, (0.9, 0.8), 0.4, kind="size rule " + evil, label=evil),
    ]
    run = made_run(tmp_path, measurements, workload=evil, recipe_fields={evil: evil}, data=evil)
    run.write_summary(summary(chosen))
    text = own_text(run)
    assert "<img" not in text
    assert "<!--" not in text
    # the theme, the data of three figures and of the selection, plotly, and the page's own
    assert text.count("</script>") == 7
    assert text.count("onerror=alert(1)") > 10


@pytest.mark.parametrize(
    ("measurements", "says", "figures"),
    [
        ([], "Nothing was trained yet.", 0),
        ([failed(0, 0.5)], "1 training (1 in the search, 1 failed)", 0),
        ([measured(0, 0.5, 0.5)], "Best so far under the first budget: 50.00 % validation accuracy at 0.5 bits", 3),
        ([measured(0, 0.5, 0.9)], "Not finished: nothing was chosen yet.", 3),
        ([measured(0, 0.5, 0.5), stopped(1, 0.4, 0.4), failed(2, 0.3)], "Not drawn: 1 stopped early as weak and 1", 3),
        (confirmed(0, (0.9,), 0.5), "1 training (1 to confirm)", 1),
    ],
    ids=["nothing", "a failure", "one", "over the budget", "each state", "confirmed only"],
)
def test_it_is_there_at_any_time_of_a_run(tmp_path, measurements, says, figures):
    run = made_run(tmp_path, measurements)
    assert says in words(run)
    assert own_text(run).count('<div class="plot"') == figures
    assert "nan" not in words(run).replace("the loss is nan", "")


def test_best_so_far_is_the_last_improvement(tmp_path):
    made = [measured(0, 0.5, 0.5), measured(1, 0.7, 0.6), measured(2, 0.65, 0.4), measured(3, 0.9, 0.9)]
    assert "70.00 % validation accuracy at 0.6 bits per weight" in words(made_run(tmp_path, made))


def test_an_interrupted_run_says_so(tmp_path):
    run = example(tmp_path)
    unread = {"test_accuracy": None, "test_accuracy_shipped": None}
    body = entry(uniform=None, full_precision=None, **{**result(0.9, None, 0.5), **unread})
    run.write_summary(summary(body, state="interrupted"))
    text = words(run)
    assert "the test set was not read" in text
    assert "validation accuracy 90.00 %" in text
    assert "1 seed" in text


def test_budgets_that_are_searched_for_now_are_not_finished_by_what_came_out_for_others(tmp_path):
    run = example(tmp_path)
    run.question["budgets"] = ["0.5bpw"]
    assert (run.summary()["state"], run.summary()["budgets"]) == ("interrupted", [])
    assert [one["budget"] for one in run.summary()["earlier"]] == [one["budget"] for one in run.chosen()] == ["0.7bpw"]
    text = words(run)
    assert "The most accurate model within 0.5bpw" in text
    assert "Not finished: nothing was chosen yet." in text
    assert "Budget 0.7bpw" not in text
    assert not tables.progress(run)["asked"].any()  # the uniform model of 0.7 would flatter a search at 0.5
    run.question["budgets"] = ["0.5bpw", "0.7bpw"]
    text = words(run)
    assert "the test set was not read for 0.5bpw." in text
    assert "Budget 0.7bpw" in text
    assert run.summary()["state"] == "interrupted"
    run.question["budgets"] = ["0.7bpw"]
    assert run.summary() == summary()


def test_it_says_how_it_was_made(tmp_path):
    question = {"versions": {"torch": "2.6"}, "epochs": 0, "data": "", "recipe_fields": {"batch_size": 64}}
    text = words(made_run(tmp_path, [], **question))
    for part in ("workload made", "seed 0", "Recipe batch size 64", "Versions torch 2.6", "Fingerprint model abc123"):
        assert part in text
    assert "epochs" not in text


def test_all_measurements_are_listed_with_reasons(tmp_path):
    text = own_text(example(tmp_path))
    table = re.search(r'<table class="all" id="trials">.*?</table>', text, re.DOTALL)[0]
    assert table.count("<tr>") == 1 + 13
    assert "the loss is nan, &lt;b&gt;sadly&lt;/b&gt;" in table


def test_a_long_run_stays_small(tmp_path):
    run = large(tmp_path)
    assert write_report(run).stat().st_size < 8_000_000


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(tmp_path):
    run = example(tmp_path)
    first = page(run)
    assert page(run) == first
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_metric_of_ones_own_is_told_as_it_is(tmp_path):
    run = example(tmp_path / "a")
    own = made_run(tmp_path / "b", list(run.measurements), metric="my.module:r2")
    own.write_summary(summary())
    text = words(own)
    for part in (
        "test r2 0.95 ± 0.01",
        "+0.02 ± 0.01291",
        "chosen 0.5 262 0.96 ± 0.01 0.95 ± 0.01",
        "R2 against size",
        "full precision 0.98",
        "0.97 validation r2, 0.5 bits per weight",
        "chosen by mean validation r2",
    ):
        assert part in text, part
    assert "accuracy" not in text.lower()
    assert "points" not in text
    assert " %" not in re.sub(r"\d+ %", "", text)  # shares of a file are in percent
    from flexor_search.reporting import figures

    figure = figures.pareto_figure(own)
    assert figure.layout.yaxis.title.text == "validation r2"
    assert 0.96 in [y for trace in figure.data for y in trace.y]
    assert "test accuracy 95.00 % ± 1.00" in words(run)  # and nothing of it stays
