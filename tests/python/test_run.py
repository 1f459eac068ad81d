"""Search with Python objects: a run that can be looked at, gone on with by the same objects, and by nothing else."""

import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tuning.models import Recorder

import flexor_search as fs
from flexor_search import cli, found
from flexor_search.runs import Run as Folder

SHORT = {"trials": 3, "epochs": 1, "seeds": 2}


def net():
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 160),
        torch.nn.ReLU(),
        torch.nn.Linear(160, 640),
        torch.nn.Linear(640, 4),
    )


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 4
    return prototypes[labels] + 0.7 * torch.randn(count, 1, 8, 8, generator=generator), labels


DATA = tuple(pictures(count, seed) for seed, count in enumerate((240, 80, 80)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("python") / "run"
    yield fs.search(net(), DATA, "0.6bpw", fs.Question(**SHORT), out=folder, observer=fs.Silent())
    torch.set_num_threads(threads)


def test_the_run_says_that_its_objects_were_given(run):
    assert (run.question["model"], run.question["data"]) == (
        "<given in Python: Sequential>",
        "<given in Python: tuple>",
    )
    assert run.summary()["state"] == "complete"
    assert "0.6bpw" in str(run)
    assert len(repr(run)) < 300


def test_its_tables(run):
    front, rows = run.front(), run.measurements()
    assert isinstance(front, pd.DataFrame)
    assert {"confirm", "search"} == set(front["fidelity"])
    assert (front["bits_per_weight"] <= 0.6).all()
    assert set(front["digest"]) <= set(rows["digest"])


def test_the_best_model_is_the_one_shipped(run):
    (entry,) = run.summary()["budgets"]
    best = run.best("0.6bpw")
    assert best == run.best() == run.best("0.60bpw")
    assert (best.file_bytes, best.test_accuracy) == (entry["file_bytes"], entry["test_accuracy"]["mean"])
    assert best.file_bytes == best.path.stat().st_size
    assert best.layers.keys() == {"1", "3", "4"}
    model = best.load()
    right = (model(DATA[2][0]).argmax(1) == DATA[2][1]).float().mean()
    assert float(right) == pytest.approx(entry["test_accuracy_shipped"])
    assert torch.equal(best.load(keep_packed=True)(DATA[2][0]), model(DATA[2][0]))


def test_the_best_of_another_budget_is_one_that_was_trained(run):
    sizes = run.measurements().query("kind != 'full precision'")["bits_per_weight"]
    best = run.best(f"{sizes.min()}bpw")
    assert best.bits_per_weight == sizes.min()
    assert best.load()(DATA[2][0]).shape == (80, 4)
    with pytest.raises(fs.RunError, match="no trained model of"):
        run.best("0.05bpw")
    with pytest.raises(fs.UsageError, match="not a positive number with a unit"):
        run.best("0.6")


def test_what_an_allocation_is_believed_to_have(run):
    best = run.best()
    mean, deviation = run.predict(best.layers)
    assert 0 < mean < 1
    assert 0 < deviation < 1
    unknown = {name: "kept" if entry == "kept" else "9/21" for name, entry in best.layers.items()}
    with pytest.raises(fs.UsageError, match=r"layers: '\d' needs an entry of its menu \(.*\), got '9/21'"):
        run.predict(unknown)
    with pytest.raises(fs.UsageError, match=r"got none"):
        run.predict({})


def test_no_accuracy_above_all_right_is_believed(run, monkeypatch):
    fitted = found.model_of_run

    def too_sure(space, record):
        above = np.array([1.004]), np.array([0.01])
        return SimpleNamespace(space=fitted(space, record).space, predict=lambda _: above)

    monkeypatch.setattr(found, "model_of_run", too_sure)
    assert run.predict(run.best().layers) == (1.0, 0.01)


def test_it_is_shown_in_a_cell_as_what_it_is(run):
    html = run._repr_html_()
    tree = ElementTree.fromstring(html)  # well-formed
    cells = [[cell.text for cell in row] for row in tree.iter("tr")]
    (entry,) = run.summary()["budgets"]
    assert cells[1][:2] == ["0.6bpw", "chosen"]
    assert cells[1][3] == f"{entry['file_bytes']:,}"
    marks = [*tree.iter("circle"), *tree.iter("rect")]
    confirmed = run.measurements().query("phase == 'confirm' and kind != 'full precision'")
    assert len(marks) == confirmed["digest"].nunique()
    assert len(tree.find("svg/polyline").get("points").split()) == (run.front()["fidelity"] == "confirm").sum()
    assert "<script" not in html
    assert len(html) < 20_000


def test_export_of_a_run_of_objects(run, tmp_path):
    assert run.export(to=tmp_path / "model.onnx") == tmp_path / "model.onnx"
    assert fs.verify(tmp_path / "model.onnx").passed
    assert fs.report(run) == run.report() == run.folder / "report.html"
    with pytest.raises(fs.RunError, match="were given in Python"):
        fs.export(run.folder, to=tmp_path / "other.onnx")


def test_it_is_gone_on_with_by_the_same_objects_only(run, monkeypatch, capsys):
    with pytest.raises(fs.RunError, match="give the same objects again"):
        fs.resume(run.folder)
    with pytest.raises(fs.RunError, match=r"what differs: .*data \(there"):
        fs.resume(run.folder, net(), (DATA[0], DATA[1], pictures(80, 9)), observer=fs.Silent())
    with pytest.raises(fs.RunError, match=r"what differs: .*model \(there"):
        fs.resume(run.folder, torch.nn.Sequential(*net()[:-1], torch.nn.Linear(640, 5)), DATA, observer=fs.Silent())
    other = torch.nn.Sequential(*[torch.nn.GELU() if isinstance(part, torch.nn.ReLU) else part for part in net()])
    with pytest.raises(fs.RunError, match=r"what differs: model code \(there"):
        fs.resume(run.folder, other, DATA, observer=fs.Silent())
    for use in (lambda run: run.best().load(), lambda run: run.export(to=run.folder / "other.onnx")):
        with pytest.raises(fs.RunError, match="the model's code has changed"):
            use(fs.open_run(run.folder, other, DATA))
    assert not (run.folder / "other.onnx").exists()
    with pytest.raises(fs.UsageError, match="'seed' may not change; did you mean 'seeds'"):
        fs.resume(run.folder, net(), DATA, {"seed": 3})
    monkeypatch.setattr("sys.argv", ["flexor-search", "resume", str(run.folder), "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "were given in Python, and are not in run.toml" in capsys.readouterr().err
    before = run.measurements()
    again = fs.search(net(), DATA, "0.6bpw", fs.Question(**SHORT), out=run.folder, observer=fs.Silent())
    assert again.measurements().equals(before)
    opened = fs.open_run(run.folder, net, DATA)
    assert opened.best() == run.best()
    with pytest.raises(fs.RunError, match="were given in Python"):
        fs.open_run(run.folder).best().load()
    assert fs.open_run(run.folder, net).best().load()(DATA[2][0]).shape == (80, 4)


def test_what_was_given_is_told_apart_from_what_is_asked(tmp_path):
    with pytest.raises(fs.UsageError, match="model: given twice"):
        fs.search(net, DATA, "1bpw", fs.Question(model="mine:build", data="mine:loaders"), out=tmp_path)
    with pytest.raises(fs.UsageError, match="--model and --data go together"):
        fs.search(net, budget="1bpw", out=tmp_path)
    with pytest.raises(fs.UsageError, match="--model and --data go together"):
        fs.search(data=DATA, budget="1bpw", out=tmp_path)
    with pytest.raises(fs.UsageError, match="budget: --budget is needed"):
        fs.search(net, DATA, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_values_that_no_training_can_draw_anew_are_told(tmp_path, monkeypatch):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.gain = net(), torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            return self.gain * self.net(images)

    observer = Recorder()
    with pytest.raises(fs.UsageError, match="below the least"):
        fs.search(Odd(), DATA, "0.001bpw", out=tmp_path / "run", observer=observer)
    assert "the given values of gain: their module has no reset_parameters" in observer.of("message")[0][0]


def test_a_layout_is_a_table_that_says_what_is_reachable():
    layout = fs.plan(net, "40KiB,0.6bpw")
    assert list(layout.layers["weights"]) == [10240, 102400, 2560]
    assert layout.reachable["least"]["bits_per_weight"] == 0.05
    assert "budget 40KiB: reachable" in str(layout)
    assert "<table" in layout._repr_html_()
    assert fs.plan(question=fs.Question(workload="lenet5-fashion-mnist")).layers["weights"].max() == 1_605_632
    with pytest.raises(fs.UsageError, match="below the least reachable size"):
        fs.plan(net, "0.001bpw")
    with pytest.raises(fs.ModelError, match="no quantizable layer"):
        fs.plan(torch.nn.ReLU())


def test_the_half_that_has_a_name_is_taken_from_the_run(tmp_path):
    question = {"budget": "0.7bpw", "budgets": ["0.7bpw"], "model": "<given in Python: net>", "data": "mine:loaders"}
    Folder.start(tmp_path / "run", question, {})
    given = fs.open_run(tmp_path / "run", net).given
    assert (given.model, given.data) == (net, "mine:loaders")
    assert fs.open_run(tmp_path / "run").given is None
    Folder.start(tmp_path / "other", question | {"model": "mine:build", "data": "<given in Python: list>"}, {})
    given = fs.open_run(tmp_path / "other", data=DATA).given
    assert (given.model, given.data) == ("mine:build", DATA)
