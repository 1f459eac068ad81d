"""Kinds of models that the project does not ship: each is planned, searched with two trials, packed and verified.

A model in a package of its user's, with a loop and a metric of its own, is in test_own_code.py.
"""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from flexor_search.packing import load_packed
from flexor_search.runs import Run

SHORT = ("--trials", "2", "--seeds", "1", "--device", "cpu", "--jobs", "1", "--quiet", "--json", "--out", "out")
KINDS = {
    "separable": ("separable", "pictures", "0.5bpw"),
    "transformer": ("VisionTransformer", "pictures", "0.6bpw"),
    "tied": ("Tied", "pictures", "9KiB"),
    "sequences": ("sequences_net", "sequences", "0.7bpw"),
    "pretrained": ("pretrained", "larger_pictures", "0.8bpw"),
    "without norms": ("without_norms", "pictures", "0.05x"),
}


@pytest.fixture
def nets(tmp_path, command, monkeypatch):
    """The user's module, imported from the user's folder."""
    shutil.copy(Path(__file__).with_name("architectures.py"), tmp_path / "nets.py")
    (tmp_path / "recipe.toml").write_text("epochs = 6\nsearch_epochs = 3\nbatch_size = 16\nlearning_rate = 0.005\n")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda: importlib.import_module("nets")


def searched(command, kind, *more):
    build, data, budget = KINDS[kind]
    asked = ("--model", f"nets:{build}", "--data", f"nets:{data}")
    planned = command("plan", "--budget", budget, *asked, "--json")
    assert (planned.code, planned.err) == (0, "")
    ended = command("--budget", budget, *asked, "--recipe", "recipe.toml", *SHORT, *more)
    assert (ended.code, ended.err) == (0, "")
    entry = json.loads(ended.out)["budgets"][0]
    path = Path("out") / f"model-{budget}.safetensors"
    assert path.stat().st_size == entry["file_bytes"]
    assert command("verify", path).code == 0
    return json.loads(planned.out)["layers"], entry, path


def right(model, part):
    inputs, labels = part.tensors
    return float((model(inputs).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pretrained"])
def test_it_plans_searches_packs_and_verifies(nets, command, kind):
    layers, entry, path = searched(command, kind)
    module = nets()
    build, data, _ = KINDS[kind]
    model = load_packed(path, model=getattr(module, build)())
    shipped = right(model, getattr(module, data)()[2])
    assert shipped == pytest.approx(entry["test_accuracy_shipped"])
    assert shipped > 0.5  # four classes: what was packed has learned
    searched_layers = [layer for layer in layers if not layer["may_take"].startswith("kept")]
    assert (
        len(searched_layers) == {"separable": 4, "transformer": 12, "tied": 2, "sequences": 2, "without norms": 2}[kind]
    )


def test_weights_of_torchvision_from_a_file_are_tuned_not_learned_anew(nets, command, tmp_path):
    module = nets()
    torch.manual_seed(0)
    model, data = module.bare_squeezenet(), module.larger_pictures()
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    for _ in range(60):  # as many as it takes: how soon it learns is not the same on all processors
        if right(model.eval(), data[1]) > 0.8:
            break
        model.train()
        for part in range(0, 128, 32):
            optimizer.zero_grad()
            images, labels = (tensor[part : part + 32] for tensor in data[0].tensors)
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    torch.save(model.state_dict(), tmp_path / module.WEIGHTS)
    before = right(model.eval(), data[1])
    (tmp_path / "recipe.toml").write_text("epochs = 1\nlearning_rate = 1e-5\npretrained = true\n")
    layers, entry, path = searched(command, "pretrained")
    assert len(layers) == 26
    assert entry["verified"]
    shipped = right(load_packed(path, model=module.bare_squeezenet()), data[2])
    assert shipped == pytest.approx(entry["test_accuracy_shipped"])
    full = [m for m in Run.open(tmp_path / "out").measurements if m.kind == "full precision"]
    assert before > 0.5
    assert full[0].val_accuracy == pytest.approx(before, abs=0.1)  # a step so small teaches nothing: it is the file
