"""study.toml: what it may ask, and every way in which it can be wrong."""

from pathlib import Path

import pytest

from flexor_search.errors import UsageError
from flexor_search.planning import Budget, make_space, read_space_file
from flexor_search.quantization import describe
from flexor_search.studying import plan_rows, read_study
from flexor_search.workloads import workload

STUDIES = Path(__file__).parents[2] / "studies"
NOMINAL = {
    "paper-table-1": {"ResNet-20 taps 0.4": 0.4, "ResNet-32 taps 1.0": 1.0, "ResNet-32 taps two planes 2.0": 2.0},
    "paper-table-2": {"taps 19/19/8": 0.53, "taps 16/16/8": 0.50, "taps 19/16/7": 0.47},
    "paper-table-3": {"taps 0.8": 0.8, "taps 18/16/14/12": 0.63, "taps 0.6": 0.6},
}
"""Bits per weight as the paper prints them."""
UNIFORM = (1.0, 0.8, 0.6, 0.4)
ROWS = {
    "paper-table-1": {
        f"ResNet-{depth} {what}"
        for depth in (20, 32)
        for what in ("full precision", *(f"{family} {bits}" for family in ("taps", "systematic") for bits in UNIFORM))
    }
    | {"ResNet-32 taps two planes 2.0"},
    "paper-table-2": {"full precision"}
    | {
        f"{family} {rates}"
        for family in ("taps", "systematic")
        for rates in ("19/19/8", "16/16/8", "19/16/7", "uniform 0.6", "uniform 0.5", "uniform 0.4")
    },
    "paper-table-3": {"full precision"}
    | {f"{family} {rates}" for family in ("taps", "systematic") for rates in ("0.8", "18/16/14/12", "0.6")},
}
"""Every row that the tables are to have, and ours beside the paper's."""
ROW = 'name = "one"\nworkload = "digits-convnet"\n'


def written(folder, text):
    (folder / "study.toml").write_text(text)
    return folder


def with_row(folder, text="", rest=""):
    return written(folder, f'question = "?"\n[[row]]\n{ROW}{text}\n{rest}')


@pytest.mark.parametrize("name", sorted(NOMINAL))
def test_the_papers_rows_have_the_papers_bits(name):
    rows = {row.name: row for row in plan_rows(read_study(STUDIES / name))}
    for row, bits in NOMINAL[name].items():
        assert round(rows[row].allocation(0).nominal_bits_per_weight, 2) == bits
    assert ROWS[name] <= rows.keys()
    papers = [row for row in rows.values() if row.table.family == "taps"]
    assert all(row.table.n_tap == 2 for row in papers)
    assert all(row.table.published is None or row.table.certainty for row in rows.values())


@pytest.mark.parametrize("name", ["paper-table-1", "paper-table-2"])
def test_the_tables_are_trained_by_the_papers_long_recipe(name):
    """500 epochs: learning rate and s_tanh rise for 100, the rate is halved at 350, 400 and 450."""
    for recipe in (row.task.recipe for row in plan_rows(read_study(STUDIES / name))):
        assert (recipe.epochs, recipe.optimizer, recipe.batch_size, recipe.weight_decay) == (500, "sgd", 128, 1e-5)
        at = [0, 50, 100, 349, 350, 399, 400, 449, 450, 499]
        rates = [0.0, 0.05, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
        assert [recipe.learning_rate_at(epoch / 500) for epoch in at] == pytest.approx(rates, rel=1e-6, abs=1e-3)
        assert [recipe.s_tanh_at(epoch / 500) for epoch in (0, 50, 100, 499)] == pytest.approx([5, 7.5, 10, 10])


@pytest.mark.parametrize("name", ["resnet20-cifar10", "resnet32-cifar10"])
def test_the_workloads_have_the_papers_short_recipe(name):
    """200 epochs: at 150 and 175 the rate is halved and s_tanh doubled."""
    recipe, at = workload(name).recipe, (0, 149, 150, 174, 175, 199)
    assert recipe.epochs == 200
    assert [recipe.learning_rate_at(epoch / 200) for epoch in at] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert [recipe.s_tanh_at(epoch / 200) for epoch in at] == pytest.approx([10, 10, 20, 20, 40, 40])


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet20-cifar10", [6, 6, 6]),
        ("resnet32-cifar10", [10, 10, 10]),
        ("resnet18-imagenet", [4, 5, 5, 5]),  # with the shortcuts of the last three
    ],
)
def test_the_spaces_have_the_papers_stages_and_keep_the_first_and_the_last_layer(name, stages):
    task = workload(name)
    space = make_space(describe(task.build()), read_space_file(task.space), task.name)
    assert [len(variable.layers) for variable in space.variables] == stages
    searched = {layer for variable in space.variables for layer in variable.layers}
    layers = [layer.name for layer in space.model.layers]
    assert [layer for layer in layers if layer not in searched] == [layers[0], layers[-1]]


@pytest.mark.parametrize(
    "name",
    [
        "ablations",
        "half-the-bits",
        "half-the-bits-by-layer",
        "half-the-bits-taught",
        "half-the-bits-full-size",
        "paper-mnist",
    ],
)
def test_the_other_studies_can_be_planned(name):
    rows = plan_rows(read_study(STUDIES / name))
    assert any(row.table.full_precision for row in rows)


def test_half_the_bits_asks_for_half_by_both_counts():
    study = read_study(STUDIES / "half-the-bits")
    rows = {row.name: row for row in plan_rows(study)}
    for pair in study.compare:
        ours, paper = rows[pair.first], rows[pair.second]
        if " paper " not in paper.name:
            continue
        (budget,) = Budget.parse_list(ours.table.search)
        stored = [paper.allocation(seed).bits_per_weight for seed in range(100)]
        bits = sum(stored) / len(stored) if "by rank" in ours.name else paper.allocation(0).nominal_bits_per_weight
        assert budget.value == pytest.approx(bits / 2, abs=0.006)


def test_codes_follow_the_seed_unless_one_is_given(tmp_path):
    (row,) = plan_rows(read_study(with_row(tmp_path, 'rate = "8/20"')))
    assert row.allocation(0).digest != row.allocation(1).digest
    (row,) = plan_rows(read_study(with_row(tmp_path, 'rate = "8/20"\ncode_seed = 3')))
    assert row.allocation(0).digest == row.allocation(1).digest


def test_spread_rows_are_the_same_rows_evenly_mixed(tmp_path):
    (plain,) = plan_rows(read_study(with_row(tmp_path, 'rate = "8/20"')))
    (spread,) = plan_rows(read_study(with_row(tmp_path, 'rate = "8/20"\nspread = true')))
    (first,), (other,) = (next(s for s in r.allocation(0).specs if not s.is_kept).codes for r in (plain, spread))
    assert sorted(first.taps) == sorted(other.taps)
    identity = [index for index, taps in enumerate(other.taps) if len(taps) == 1]
    assert identity == [0, 2, 5, 7, 10, 12, 15, 17]
    assert plain.allocation(0).bits_per_weight == spread.allocation(0).bits_per_weight


def test_recipes_add_up_row_over_study_over_workload(tmp_path):
    text = 'rate = "8/20"\nrecipe = { clip = 2.0 }'
    folder = with_row(tmp_path, text)
    (folder / "study.toml").write_text("recipe = { epochs = 7, clip = 1.0 }\n" + (folder / "study.toml").read_text())
    (row,) = plan_rows(read_study(folder))
    assert (row.task.recipe.epochs, row.task.recipe.clip, row.task.recipe.batch_size) == (7, 2.0, 64)
    (row,) = plan_rows(read_study(folder), epochs=2)
    assert row.task.recipe.epochs == 2


@pytest.mark.parametrize(
    ("row", "rest", "message"),
    [
        ("rat = '8/20'", "", "unknown key 'row.0.rat'; did you mean 'rate'"),
        ("rate = 8", "", "row.0.rate: input should be a valid string"),
        ("", "", "row 'one' needs exactly one of rate, layers, search, full_precision; it has none of them"),
        ("rate = '8/20'\nfull_precision = true", "", "it has rate and full_precision"),
        ("rate = '8/20'\npublished = 90.0", "", "has a published figure without a source"),
        ("rate = '8/20'", f"[[row]]\n{ROW}rate = '9/20'", "two rows named 'one'"),
        ("rate = '8/20'", "[[compare]]\nfirst = 'one'\nsecond = 'onne'", "a row 'onne'; did you mean 'one'"),
        ("rate = '8/20'", "[[figure]]\ntitle = 'x'\nrows = ['two']", "speaks of a row 'two'"),
        ("rate = '8/20'", "[row", "is not readable TOML"),
        ("rate = '8/20'\nslice_order = 'rows'", "", "row.0.slice_order: input should be 'planes' or 'consecutive'"),
        ("rate = 'eight'", "", "the rate 'eight' must look like '12/20'"),
        ("rate = '21/20'", "", "row 'one': rate: needs 1 <= n_in <= n_out"),
        ("rate = '8/20'\nfamily = 'tap'", "", "'tap' is not a code family; did you mean 'taps'"),
        ("layers = { 'conv2' = '8/20' }", "", "says nothing of layer 'conv3'"),
        ("rate = '8/20'\nnominal = 0.5", "", "has 0.4 bits per weight by the paper's count, and nominal says 0.5"),
        ("search = '0.01bpw'", "", "0.01bpw"),
        ("search = '0.4bpw,0.5bpw'", "", "must search for one budget"),
        ("rate = '8/20'\nrecipe = { epoch = 3 }", "", "unknown key 'epoch'; did you mean 'epochs'"),
        ("rate = '8/20'\nspread = true\nplanes = 2", "", "spread goes with one plane"),
        (
            "rate = '8/20'\nslice_order = 'consecutive'\nrecipe = { pretrained = true }",
            "",
            "does not go with pretrained",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(tmp_path, row, rest, message):
    with pytest.raises(UsageError) as error:
        plan_rows(read_study(with_row(tmp_path, row, rest)))
    assert message in str(error.value)


def test_an_unknown_workload_names_the_nearest(tmp_path):
    text = 'question = "?"\n[[row]]\nname = "one"\nworkload = "resnet20-cifar"\nrate = "8/20"\n'
    with pytest.raises(UsageError, match="did you mean 'resnet20-cifar10'"):
        plan_rows(read_study(written(tmp_path, text)))


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no study\.toml"):
        read_study(tmp_path)
    with pytest.raises(UsageError, match=r"has no \[\[row\]\]"):
        read_study(written(tmp_path, 'question = "?"\nrow = []\n'))


def test_rows_that_are_not_there_cannot_be_asked_for(tmp_path):
    with pytest.raises(UsageError, match="'two' is no row of this study"):
        plan_rows(read_study(with_row(tmp_path, 'rate = "8/20"')), only=["two"])
