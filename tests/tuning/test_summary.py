"""What a run came to: checked against the measurements it came from; the test set is read once, at the end."""

import json
import shutil
import statistics
from dataclasses import replace

import pytest

from flexor_search.errors import RunError
from flexor_search.packing import load_packed, verify_file
from flexor_search.planning import Allocation, Budget, nearest_uniform
from flexor_search.runs import CONFIRM, SEARCH, Run
from flexor_search.training import evaluate
from flexor_search.tuning import SearchPlan, Silent, confirm, confirmation_seeds, search, ship, summarize

from .models import Recorder, budgets, measurer_in, small_net, space_of

SPACE, ASKED, SEEDS = space_of(), budgets("0.7bpw,2100B"), confirmation_seeds(0, 2)
KEYS = {
    *("bits_per_weight", "payload_bits", "file_bytes", "file_bits_per_weight", "nominal_bits_per_weight"),
    *("val_accuracy", "test_accuracy", "test_accuracy_shipped", "verified", "allocation"),
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run that was searched and confirmed, but not summed up."""
    measurer = measurer_in(tmp_path_factory.mktemp("summary") / "run")
    search(SearchPlan(SPACE, ASKED, 5, 0, 1e9), measurer, Silent())
    confirm(SPACE, ASKED, measurer, SEEDS, Silent())
    return measurer


@pytest.fixture
def measurer(searched, tmp_path):
    """A copy of that run, to write to."""
    shutil.copytree(searched.run.folder, tmp_path / "run")
    return replace(searched, run=Run.open(tmp_path / "run"))


class Counted:
    """A measurer whose readings of the test set are counted."""

    def __init__(self, measurer):
        self._measurer, self.run, self.readings = measurer, measurer.run, []

    def test_accuracy(self, measurement):
        self.readings.append(measurement.number)
        return self._measurer.test_accuracy(measurement)


def summed(measurer, complete=True, asked=ASKED, observer=None):
    return summarize(SPACE, asked, measurer, SEEDS, observer or Silent(), complete=complete)


def test_every_number_comes_from_the_measurements(measurer):
    summary = summed(measurer)
    assert summary == measurer.run.summary()
    assert summary["state"] == "complete"
    assert [entry["budget"] for entry in summary["budgets"]] == ["0.7bpw", "2100B"]
    rows = [m for m in measurer.run.measurements if m.phase == CONFIRM]
    for entry, budget in zip(summary["budgets"], ASKED, strict=True):
        assert entry.keys() == KEYS | {"budget", "uniform", "full_precision", "file", "packing"}
        assert entry["uniform"].keys() == entry["full_precision"].keys() == KEYS
        for body in (entry, entry["uniform"], entry["full_precision"]):
            allocation = Allocation.from_json(SPACE.model, body["allocation"])
            same = [m for m in rows if m.digest == allocation.digest]
            accuracies = [m.val_accuracy for m in same]
            assert body["val_accuracy"]["seeds"] == [m.seed for m in same] == list(SEEDS)
            assert body["val_accuracy"]["mean"] == round(statistics.fmean(accuracies), 6)
            assert body["val_accuracy"]["std"] == round(statistics.stdev(accuracies), 6)
            tested = [measurer.test_accuracy(m) for m in same]
            assert body["test_accuracy"]["mean"] == round(statistics.fmean(tested), 6)
            best = max(same, key=lambda m: (m.val_accuracy, -m.val_loss))
            assert body["test_accuracy_shipped"] == tested[same.index(best)]
            assert body["bits_per_weight"] == allocation.bits_per_weight
            assert body["verified"] is True
        assert Allocation.from_json(SPACE.model, entry["uniform"]["allocation"]) == nearest_uniform(SPACE, budget)
        full = entry["full_precision"]
        assert (full["bits_per_weight"], full["file_bytes"]) == (32.0, SPACE.model.float_bytes)
        assert full["payload_bits"] == 32 * SPACE.model.n_weights
        assert entry["val_accuracy"]["mean"] >= entry["uniform"]["val_accuracy"]["mean"]
        assert budget.fits(Allocation.from_json(SPACE.model, entry["allocation"]))
        assert entry["file_bits_per_weight"] == round(8 * entry["file_bytes"] / SPACE.model.n_weights, 4)


def test_the_shipped_file_is_the_one_that_the_summary_speaks_of(measurer):
    for entry in summed(measurer)["budgets"]:
        path = measurer.run.folder / f"model-{entry['budget']}.safetensors"
        verify_file(path)
        assert path.stat().st_size == entry["file_bytes"]
        loaded = load_packed(path, small_net())
        assert evaluate(loaded, measurer.data.test).accuracy == entry["test_accuracy_shipped"]
        body = json.loads((measurer.run.folder / f"allocation-{entry['budget']}.json").read_text())
        assert body == entry["allocation"]


def test_each_model_meets_the_test_set_once_ever(measurer):
    first, second = Counted(measurer), Counted(measurer)
    assert summed(first) == summed(second)
    assert len(first.readings) == len(set(first.readings)) > 0
    assert second.readings == []
    recorded = json.loads((measurer.run.folder / "test_readings.json").read_text())
    assert sorted(int(key.split()[0]) for key in recorded) == sorted(first.readings)
    searched = {m.number for m in measurer.run.measurements if m.phase != CONFIRM}
    assert searched.isdisjoint(first.readings)


def test_an_interrupted_run_does_not_read_the_test_set(measurer):
    counted = Counted(measurer)
    summary = summed(counted, complete=False)
    assert summary["state"] == "interrupted"
    assert counted.readings == []
    assert not (measurer.run.folder / "test_readings.json").exists()
    for entry in summary["budgets"]:
        assert (entry["test_accuracy"], entry["test_accuracy_shipped"]) == (None, None)
        verify_file(measurer.run.folder / f"model-{entry['budget']}.safetensors")


def test_interrupted_in_the_search_the_best_trial_is_shipped(tmp_path):
    measurer = measurer_in(tmp_path / "run")
    search(SearchPlan(SPACE, ASKED, 4, 0, 1e9), measurer, Silent())
    for entry in summed(measurer, complete=False)["budgets"]:
        uniform = measurer.run.find((nearest_uniform(SPACE, Budget.parse(entry["budget"])).digest, SEARCH, 0))
        if uniform is not None:  # a short training is compared with one as short
            assert entry["uniform"]["val_accuracy"]["mean"] == round(uniform.val_accuracy, 6)
        assert entry["full_precision"] is None
        fitting = [m for m in measurer.run.measurements if m.file_bytes <= entry["file_bytes"]]
        assert entry["val_accuracy"]["mean"] >= max(round(m.val_accuracy, 6) for m in fitting)
        assert entry["val_accuracy"]["std"] is None
        verify_file(measurer.run.folder / f"model-{entry['budget']}.safetensors")


def test_a_run_in_which_nothing_fits_says_why_and_what_to_do(tmp_path, measurer):
    with pytest.raises(RunError, match=r"no training that fits 0\.05bpw has finished.*flexor-search resume"):
        summed(measurer, asked=budgets("0.05bpw"))
    empty = measurer_in(tmp_path / "empty")
    with pytest.raises(RunError, match="none was begun"):
        summed(empty, complete=False)


def test_a_lost_file_is_an_error_that_says_how_to_get_it_back(measurer):
    for path in (measurer.run.folder / "trained").iterdir():
        path.unlink()
    with pytest.raises(RunError, match=r"cannot be read .*flexor-search resume"):
        ship(measurer.run, measurer.run.measurements[0], "0.7bpw", {})
    assert not (measurer.run.folder / "model-0.7bpw.safetensors").exists()


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_damaged_test_readings_are_an_error_that_says_what_to_do(measurer, text):
    (measurer.run.folder / "test_readings.json").write_text(text)
    with pytest.raises(RunError, match=r"test_readings\.json is damaged.*delete it"):
        summed(measurer)


def test_what_was_confirmed_stays_when_a_later_call_is_interrupted(measurer):
    before = summed(measurer)
    files = {path.name: path.read_bytes() for path in measurer.run.folder.glob("model-*")}
    assert measurer.run.was_confirmed
    assert summed(measurer, complete=False) == measurer.run.summary() == before
    more = (*ASKED, *budgets("0.9bpw"))
    found = summed(measurer, complete=False, asked=more)
    assert found["state"] == "interrupted"
    assert found["budgets"][:2] == before["budgets"]
    assert found["budgets"][2]["test_accuracy"] is None
    for name, content in files.items():
        assert (measurer.run.folder / name).read_bytes() == content


def test_a_short_training_stands_beside_no_full_one(measurer):
    confirmed = [m for m in measurer.run.measurements if m.phase == CONFIRM]
    assert {m.kind for m in confirmed} >= {"uniform", "full precision"}
    for entry in summed(measurer, complete=False)["budgets"]:
        assert len(entry["val_accuracy"]["seeds"]) == 1
        assert entry["full_precision"] is None
        if entry["uniform"] is not None:
            assert entry["uniform"]["val_accuracy"]["seeds"] == entry["val_accuracy"]["seeds"]


def test_budgets_that_are_not_asked_for_any_more_keep_their_models(measurer):
    before = {entry["budget"]: entry for entry in summed(measurer)["budgets"]}
    model = (measurer.run.folder / "model-0.7bpw.safetensors").read_bytes()
    other = budgets("0.5bpw")
    found = summed(measurer, complete=False, asked=other)
    assert (found["state"], [entry["budget"] for entry in found["budgets"]]) == ("interrupted", ["0.5bpw"])
    assert {entry["budget"]: entry for entry in found["earlier"]} == before
    again = summed(measurer, complete=False, asked=(*budgets("0.7bpw"), *other))
    assert again["budgets"][0] == before["0.7bpw"]
    assert again["state"] == "interrupted"
    assert (measurer.run.folder / "model-0.7bpw.safetensors").read_bytes() == model
    with pytest.raises(RunError, match="no training that fits"):
        summed(measurer, complete=False, asked=budgets("0.05bpw"))
    assert (measurer.run.summary()["state"], measurer.run.summary()["budgets"]) == ("interrupted", [])


def test_a_budget_that_nothing_fits_takes_no_other_down(measurer):
    asked = (*budgets("0.05bpw"), *ASKED)
    with pytest.raises(RunError, match=r"no training that fits 0\.05bpw has finished"):
        summed(measurer, asked=asked)
    summary = measurer.run.summary()
    assert summary["state"] == "interrupted"
    assert [entry["budget"] for entry in summary["budgets"]] == ["0.7bpw", "2100B"]
    assert all(entry["test_accuracy"] for entry in summary["budgets"])


def test_a_number_that_is_taken_again_has_no_reading(measurer):
    summed(measurer)
    path = measurer.run.folder / "test_readings.json"
    known = json.loads(path.read_text())
    first, *others = known
    number, digest, _, seed = first.split()
    path.write_text(json.dumps({f"{number} {digest} seed {int(seed) + 1}": 0.0} | {key: known[key] for key in others}))
    counted = Counted(measurer)
    summed(counted)
    assert counted.readings == [int(number)]


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_summary_is_written_anew(measurer, text):
    before = summed(measurer)
    (measurer.run.folder / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"summary\.json is damaged: .*; run `flexor-search resume"):
        measurer.run.summary()
    observer = Recorder()
    assert summed(measurer, observer=observer) == before == measurer.run.summary()
    assert any("is damaged; it is written anew" in told for (told,) in observer.of("message"))
