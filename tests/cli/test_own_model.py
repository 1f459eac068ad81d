"""A user's own model and data, from files of the user's own."""

import importlib
import json
from pathlib import Path

import onnxruntime
import pytest
import torch

from flexor_search.errors import UsageError
from flexor_search.packing import load_packed, verify_file
from flexor_search.planning import Allocation, Budget, file_layout
from flexor_search.quantization import describe
from flexor_search.runs import Run

from .own import MODULE

SHORT = ("--trials", "5", "--epochs", "3", "--seeds", "2", "--device", "cpu", "--quiet", "--json", "--out", "out")


@pytest.fixture
def mine(tmp_path, command):
    """The user's module, imported as the command imports it."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "nothing_kept.toml").write_text("keep = []\n")

    def module():
        return importlib.import_module("mine")

    return module


def checked(out, build, images):
    """Every budget's file against the summary and the model."""
    shape = describe(build())
    for entry in out["budgets"]:
        path = Path(out["run"]) / f"model-{entry['budget']}.safetensors"
        allocation = Allocation.from_json(shape, entry["allocation"])
        assert path.stat().st_size == entry["file_bytes"] == file_layout(allocation).file_bytes
        assert Budget.parse(entry["budget"]).fits(allocation)
        verify_file(path)
        with pytest.raises(UsageError, match="give an instance with model="):
            load_packed(path)
        logits = load_packed(path, model=build())(images)
        assert logits.shape == (len(images), 4)
        assert torch.isfinite(logits).all()
        assert entry["val_accuracy"]["mean"] >= entry["uniform"]["val_accuracy"]["mean"]
    return shape


def exported(command, folder, build, images):
    """The run's only budget in every other format, made of the user's own code."""
    for target in ("model.onnx", "hub", "decoder.v"):
        ended = command("export", "out", "--to", target, "--quiet")
        assert (ended.code, ended.out.strip(), ended.err) == (0, target, "")
    wanted = load_packed(folder / "hub", build)(images)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    config = json.loads((folder / "hub" / "config.json").read_text())
    assert config == {"flexor_search": {"model": "mine:build", "file": "model.safetensors"}}
    assert command("verify", "model.onnx").code == 0


def test_a_perceptron_in_twenty_kibibytes(mine, command, tmp_path):
    ended = command("--budget", "20KiB", "--model", "mine:build", "--data", "mine:loaders", *SHORT)
    assert (ended.code, ended.err) == (0, "")
    out = json.loads(ended.out)
    images, labels = mine().pictures(80, 2)
    checked(out, mine().build, images)
    path = tmp_path / "out" / "model-20KiB.safetensors"
    assert path.stat().st_size <= 20 * 1024
    (entry,) = out["budgets"]
    assert 20 * 1024 - 256 - 100 < entry["uniform"]["file_bytes"] <= 20 * 1024  # a rate more is 256 bytes and a few
    right = load_packed(path, model=mine().build())(images).argmax(1) == labels
    assert float(right.float().mean()) == pytest.approx(entry["test_accuracy_shipped"])
    assert entry["test_accuracy_shipped"] > 0.5  # four classes: it has learned
    run = Run.open(tmp_path / "out")
    exported(command, tmp_path, mine().build, images)
    assert (run.question["model"], run.question["data"], run.question["workload"]) == ("mine:build", "mine:loaders", "")
    assert all(m.file_bytes <= 20 * 1024 for m in run.measurements if m.kind != "full precision")


def test_a_one_dimensional_net_at_a_ratio_with_two_parts_of_data(mine, command, tmp_path):
    ended = command(
        *("--budget", "0.03x,0.02x", "--model", "mine:one_dimensional", "--data", "mine:signals"),
        *("--space", "nothing_kept.toml", *SHORT),
    )
    assert (ended.code, ended.err) == (0, "")
    out = json.loads(ended.out)
    assert [entry["budget"] for entry in out["budgets"]] == ["0.03x", "0.02x"]
    images, _ = mine().pictures(80, 1, (2, 32))
    shape = checked(out, mine().one_dimensional, images)
    assert [layer.kind for layer in shape.layers] == ["Conv1d", "Conv1d", "Linear", "Linear"]
    assert shape.layers[0].folded_norm == "1"
    for entry, ratio in zip(out["budgets"], (0.03, 0.02), strict=True):
        assert entry["file_bytes"] <= ratio * shape.float_bytes
        assert entry["full_precision"]["file_bytes"] == shape.float_bytes
    run = Run.open(tmp_path / "out")
    assert {m.images for m in run.measurements} == {216}  # of 240, a tenth validates


def test_the_default_recipe_for_own_models_is_said_and_can_be_changed(mine, command, tmp_path):
    (tmp_path / "recipe.toml").write_text('optimizer = "sgd"\nlearning_rate = 0.05\nepochs = 1\nbatch_size = 40\n')
    asked = ("--budget", "0.6bpw", "--model", "mine:build", "--data", "mine:loaders", "--trials", "1", "--seeds", "1")
    ended = command(*asked, "--epochs", "1", "--out", "one")
    assert "recipe (default for own models; --recipe FILE.toml changes it): adam, one-cycle" in ended.err
    ended = command(*asked, "--recipe", "recipe.toml", "--out", "other")
    assert ended.code == 0
    assert "sgd, one-cycle to 0.05, batch 40, 1 epochs" in ended.err
    fields = Run.open(tmp_path / "other").question["recipe_fields"]
    assert (fields["optimizer"], fields["batch_size"]) == ("sgd", 40)


def test_a_plan_of_an_own_model_lists_its_layers_and_trains_nothing(mine, command, tmp_path):
    before = sorted(tmp_path.iterdir())
    asked = ("--model", "mine:build", "--data", "mine:explode")
    ended = command("plan", "--budget", "20KiB", *asked, "--json")
    assert (ended.code, ended.err) == (0, "")
    body = json.loads(ended.out)
    assert [row["layer"] for row in body["layers"]] == ["1", "3", "5"]
    assert [row["weights"] for row in body["layers"]] == [4096, 40960, 2560]
    assert [row["may_take"] for row in body["layers"]] == [
        "kept (first layer)",
        "1/20 to 20/20 (20)",
        "kept (last Linear)",
    ]
    least, most = body["reachable"]["least"], body["reachable"]["most"]
    assert least["file_bytes"] < 20 * 1024 < most["file_bytes"]
    assert least["bits_per_weight"] < most["bits_per_weight"]
    assert "budget 20KiB: reachable" in body["notes"]
    plain = command("plan", "--budget", "20KiB", *asked)
    assert "40,960" in plain.out
    assert "budget 20KiB: reachable" in plain.out
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_is_always_the_same_instance_is_not_changed(mine, command, tmp_path):
    with (tmp_path / "mine.py").open("a") as file:
        file.write("\n\nONLY = build()\n\n\ndef only():\n    return ONLY\n")
    asked = ("--budget", "0.6bpw", "--model", "mine:only", "--data", "mine:loaders", "--trials", "1", "--seeds", "1")
    assert command(*asked, "--epochs", "1", "--out", "out", "--quiet").code == 0
    assert not any("parametrizations" in name for name in mine().ONLY.state_dict())
    assert mine().ONLY[1].weight.requires_grad
