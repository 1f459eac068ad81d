"""Every built-in workload from plan to verified file, on small data made in its data's format.

The default one is in tests/cli/test_real_run.py, on its own data.
"""

from pathlib import Path

import pytest

from flexor_search import api
from flexor_search.asking import Question
from flexor_search.errors import DataError
from flexor_search.question import plan_tables
from flexor_search.runs import Run
from flexor_search.workloads import DEFAULT_WORKLOAD, WORKLOADS, fashion_mnist, image_folder
from tests.workloads.made_data import write_cifar10, write_idx_files, write_imagenet

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = 'precision = "float32"\nmemory_format = "contiguous"\nbatch_size = 16\n'


def fashion(folder):
    return write_idx_files(folder / "FashionMNIST" / "raw", train=50, test=10).parents[1]


DATA = {
    "lenet5-fashion-mnist": fashion,
    "lenet5-mnist": lambda folder: write_idx_files(folder, train=50, test=10),
    "resnet18-imagenet": lambda folder: write_imagenet(folder, train=5, val=2),
    "resnet20-cifar10": lambda folder: write_cifar10(folder, per_batch=10),
    "resnet20-fashion-mnist": fashion,
    "resnet20-fashion-mnist-small": fashion,
    "resnet32-cifar10": lambda folder: write_cifar10(folder, per_batch=10),
}


def asked(name, folder, data):
    (folder / "recipe.toml").write_text(RECIPE)
    return Question(
        budget="0.5bpw",
        workload=name,
        data_dir=str(data),
        recipe=str(folder / "recipe.toml"),
        trials=2,
        epochs=1,
        seeds=1,
        jobs=1,
        device="cpu",
    )


@pytest.mark.parametrize("name", sorted(set(WORKLOADS) - {DEFAULT_WORKLOAD}))
def test_it_plans_searches_packs_and_verifies(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "N_VALIDATION", 10)
    monkeypatch.setattr(image_folder, "SIDE", 32)
    question = asked(name, tmp_path, DATA[name](tmp_path / "data"))
    tables = plan_tables(question)
    assert tables["layers"]
    assert "budget 0.5bpw: reachable" in tables["notes"]
    run = api.search(question, tmp_path / "run")
    (entry,) = run.summary()["budgets"]
    assert entry["verified"]
    assert entry["bits_per_weight"] <= 0.5
    assert len([m for m in run.measurements if m.phase == "search"]) == 2
    shipped = Path(run.folder) / "model-0.5bpw.safetensors"
    assert shipped.stat().st_size == entry["file_bytes"]
    assert api.verify(shipped).passed


def test_a_damaged_image_is_passed_over_in_training_and_ends_a_run_in_scoring(tmp_path, monkeypatch, caplog):
    """As docs/data-sets.md says; with the file mended, the run goes on to its end."""
    monkeypatch.setattr(image_folder, "SIDE", 32)
    data = write_imagenet(tmp_path / "data", train=5, val=2)
    splits = image_folder.load(data)
    trained, scored = splits.train.path(1), splits.test.path(len(splits.test) - 1)  # not those of the check
    whole = {path: path.read_bytes() for path in (trained, scored)}
    for path, content in whole.items():
        path.write_bytes(bytes(100) + content[100:])
    question = asked("resnet18-imagenet", tmp_path, data)
    with pytest.raises(DataError, match=f"^data: {scored} cannot be read as an image") as told:
        api.search(question, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert f"{trained} cannot be read as an image" in caplog.text
    before = Run.open(tmp_path / "run").measurements
    assert len(before) >= 2
    scored.write_bytes(whole[scored])
    run = api.search(question, tmp_path / "run")
    assert run.measurements[: len(before)] == before
    assert run.summary()["state"] == "complete"
