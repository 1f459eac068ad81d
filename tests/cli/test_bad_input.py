"""Whatever is wrong, by whatever door it came: one line that says what and what to do, the right exit code or type of
error, nothing written."""

import gzip
import json
import shutil

import numpy as np
import pytest

from flexor_search import api
from flexor_search.workloads.cifar10 import FOLDER
from flexor_search.workloads.fashion_mnist import FILES
from tests.workloads.made_data import cifar_batch, idx, write_cifar10, write_idx_files, write_imagenet, write_pickle

from .doors import by_file, by_python
from .helpers import QUESTION, run_apart
from .own import MODULE

OWN = ("--budget", "1bpw", "--model", "mine:build", "--data", "mine:loaders", "--out", "out")
CONV = ("--budget", "0.7bpw", "--out", "out")


def with_own(model="mine:build", data="mine:loaders", budget="1bpw"):
    return ("--budget", budget, "--model", model, "--data", data, "--out", "out")


TRAIN_LABELS, TEST_LABELS = (name for name in FILES if "labels" in name)

USAGE = {
    "no budget at all": ((), "budget: --budget is needed, such as --budget 0.7bpw"),
    "no unit": (("--budget", "0.7"), "'0.7' is not a positive number with a unit; write it as 0.7bpw"),
    "zero": (("--budget", "0bpw"), "must be above zero"),
    "negative": (("--budget", "-1bpw"), "'-1bpw' is not a positive number"),
    "not a number": (("--budget", "nanbpw"), "'nanbpw' is not a positive number"),
    "infinite": (("--budget", "infbpw"), "'infbpw' is not a positive number"),
    "unknown unit": (("--budget", "48KB"), "48KiB, 48kB or 48000B"),
    "one of a list": (("--budget", "0.7bpw,,0.5bpw"), "'' is not a positive number"),
    "below what can be reached": (("--budget", "0.01bpw"), "below the least reachable size, 0.05bpw"),
    "below what can be reached, in bytes": (("--budget", "100B"), "kept tensors take"),
    "below what can be reached, data untouched": (
        with_own(data="mine:explode", budget="0.01bpw"),
        "0.01bpw is below the least reachable size",
    ),
    "unknown workload": ((*CONV, "--workload", "digit-convnet"), "did you mean 'digits-convnet'?"),
    "unknown option": (("--budgte", "0.7bpw"), "No such option: --budgte (Possible options: --budget"),
    "unknown command": (("reprot", "out"), "No such command 'reprot'. Did you mean 'report'"),
    "unknown strategy": ((*CONV, "--strategy", "dirct"), "did you mean 'direct'?"),
    "unknown space": ((*CONV, "--space", "lenet"), "no shipped space of that name; did you mean 'lenet5'?"),
    "unknown recipe": ((*CONV, "--recipe", "absent.toml"), "absent.toml is not a readable TOML file"),
    "unknown recipe field": ((*CONV, "--recipe", "recipe.toml"), "unknown key 'epoch'; did you mean 'epochs'?"),
    "unknown device": ((*CONV, "--device", "gpu9"), "device: 'gpu9' cannot be used here"),
    "a device that computes nothing": ((*CONV, "--device", "meta"), "device: 'meta' cannot be used here"),
    "a device that is not here": ((*CONV, "--device", "mps"), "try --device cpu"),
    "negative trials": ((*CONV, "--trials", "-1"), "trials: must not be negative, got -1"),
    "trials that are no number": ((*CONV, "--trials", "many"), "Invalid value for '--trials'"),
    "negative epochs": ((*CONV, "--epochs", "-2"), "epochs: must not be negative"),
    "negative timeout": ((*CONV, "--timeout", "-0.5"), "timeout_seconds: must not be negative"),
    "timeout that is no number": ((*CONV, "--timeout", "nan"), "timeout_seconds: must not be negative"),
    "no seeds": ((*CONV, "--seeds", "0"), "seeds: must be from 1 to 1000, got 0"),
    "negative seed": ((*CONV, "--seed", "-1"), "seed: must not be negative"),
    "huge seed": ((*CONV, "--seed", "99999999999999999999"), "seed: must be below 2**32"),
    "a word too many": ((*CONV, "now"), "No such command 'now'"),
    "an option before its command": (("--trials", "3", "plan"), "--trials: options of a command go behind it"),
    "a pattern that matches nothing": (
        (*CONV, "--space", "pattern.toml"),
        "pattern 'convv2' matches no layer; did you mean 'conv2'?",
    ),
    "an unknown key in a space": ((*CONV, "--space", "key.toml"), "unknown key 'default.ratse'; did you mean 'rates'?"),
    "a space that keeps everything": ((*CONV, "--space", "keep.toml"), "no layer is left to search"),
    "a space that is no TOML": ((*CONV, "--space", "torn.toml"), "is not readable TOML"),
    "model without data": (("--budget", "1bpw", "--model", "mine:build"), "--model and --data go together"),
    "data without model": (("--budget", "1bpw", "--data", "mine:loaders"), "--model and --data go together"),
    "model and workload": ((*OWN, "--workload", "digits-convnet"), "give either --workload or --model with --data"),
    "a folder of data for an own model": ((*OWN, "--data-dir", "here"), "data_dir: is for built-in workloads"),
    "a GPU for Ray's trials on CPUs": (
        (*CONV, "--backend", "ray", "--device", "cuda"),
        "needs --gpus-per-trial above 0",
    ),
    "no colon": (with_own(model="mine.build"), "'mine.build' must have the form module:function"),
    "no such module": (with_own(model="absent:build"), "importing absent from"),
    "no such function": (with_own(data="mine:loadres"), "module mine has no function 'loadres'"),
    "a module that cannot be imported": (with_own(model="broken:build"), "failed: ZeroDivisionError: division by zero"),
    "a module that is no Python": (with_own(model="nonsense:build"), "failed: SyntaxError"),
    "a module that leaves": (with_own(model="leaving:build"), "failed: SystemExit: 3"),
    "resume without a folder": (("resume",), "Missing argument 'RUN'"),
    "plan below what can be reached": (("plan", "--budget", "0.01bpw"), "below the least reachable size"),
}

FAILED = {
    "a model that raises": (
        with_own(model="mine:two_lines"),
        "mine:two_lines() raised RuntimeError: one line and another",
    ),
    "a model that leaves": (with_own(model="mine:leave"), "mine:leave() raised SystemExit: 7"),
    "a model that is none": (with_own(model="mine:not_a_model"), "must return a torch.nn.Module, got list"),
    "no layer to quantize": (with_own(model="mine:no_layers"), "it has no quantizable layer"),
    "no logits": (with_own(model="mine:no_logits"), "must return logits of shape (images, classes)"),
    "every training fails": (with_own(model="mine:hopeless"), "reasons: the loss is nan in epoch 1, step 1"),
    "data that raise": (with_own(data="mine:explode"), "mine:explode() raised AssertionError: this must never"),
    "data that leave": (with_own(data="mine:leave"), "mine:leave() raised SystemExit: 7"),
    "data that are none": (with_own(data="mine:not_data"), "train must be a torch Dataset or DataLoader, got list"),
    "data in one part": (with_own(data="mine:one_part"), "must return (train, validation, test) or (train, test)"),
    "data that raise while they are read": (
        with_own(data="mine:raising_items"),
        "reading train failed: OSError: the disk is gone",
    ),
    "a label too large": (
        with_own(data="mine:label_too_large"),
        "the label 4 is out of range: the model has 4 outputs",
    ),
    "a negative label": (with_own(data="mine:label_negative"), "train has the label -1; labels count from 0"),
    "a label that is no integer": (with_own(data="mine:label_no_number"), "train labels must be one integer an image"),
    "wrong channels": (with_own(data="mine:wrong_channels"), "images of shape (3, 9, 9) do not go through the model"),
    "an empty split": (with_own(data="mine:empty"), "the validation split is empty"),
    "a pixel that is no number": (with_own(data="mine:broken_pixel"), "validation image 17 holds a pixel that is NaN"),
    "a data folder that is missing": (
        (*CONV, "--workload", "lenet5-fashion-mnist", "--data-dir", "absent"),
        "the folder absent does not exist",
    ),
    "a data folder without data": (
        (*CONV, "--workload", "lenet5-fashion-mnist", "--data-dir", "nothing"),
        "does not hold the four files",
    ),
    "a data file that is cut": (
        (*CONV, "--workload", "lenet5-fashion-mnist", "--data-dir", "cut"),
        "train-images-idx3-ubyte.gz is damaged or cut short",
    ),
    "a CIFAR batch of the wrong length": (
        (*CONV, "--workload", "resnet20-cifar10", "--data-dir", "cifar"),
        "data_batch_2 holds images of shape [1, 3072] and 1 labels where batches.meta says 2",
    ),
    "a folder of another data set": (
        (*CONV, "--workload", "lenet5-mnist", "--data-dir", "cifar"),
        "it seems to hold CIFAR-10; --data-dir must name a folder of MNIST",
    ),
    "a class folder without images": (
        (*CONV, "--workload", "resnet18-imagenet", "--data-dir", "imagenet"),
        "the class folder imagenet/train/n00000002 holds no images",
    ),
    "labels past the classes in a file": (
        (*CONV, "--workload", "lenet5-mnist", "--data-dir", "mnist"),
        "the label 10 is out of range: the model has 10 outputs",
    ),
    "an out that is a file": ((*CONV[:-1], "key.toml"), "cannot write key.toml"),
    "an out that cannot be made": ((*CONV[:-1], "/proc/none/of/this"), "cannot write /proc/none/of/this"),
    "not a run": (("resume", "nothing"), "nothing is not a run folder: it holds no run.toml"),
    "report of no run": (("report", "nothing"), "is not a run folder"),
    "export from no run": (("export", "nothing", "--trial", "0"), "is not a run folder"),
    "verify of nothing": (("verify", "absent"), "absent: cannot be read: No such file or directory"),
    "verify of a folder": (("verify", "nothing"), "nothing/model.safetensors: cannot be read: No such file"),
    "verify of a text that is called ONNX": (("verify", "text.onnx"), "text.onnx: it is no ONNX file"),
    "verify of no ONNX file": (("verify", "nothing.onnx"), "nothing.onnx: cannot be read: No such file"),
    "inspect of something else": (("inspect", "key.toml"), "key.toml: it is not a packed file"),
    "inspect of nothing": (("inspect", "nowhere"), "nowhere: cannot be read: No such file"),
    "verify of something else": (("verify", "key.toml"), "key.toml: it is not a packed file"),
}


@pytest.fixture
def folder(tmp_path):
    """What the user has: modules, spaces, data, some of them bad."""
    files = {
        "mine.py": MODULE,
        "broken.py": "1 / 0",
        "nonsense.py": "def build(:",
        "leaving.py": "raise SystemExit(3)",
        "pattern.toml": '[[layer]]\nmatch = "convv2"\nrates = ["8/20"]\n',
        "key.toml": '[default]\nratse = ["8/20"]\n',
        "keep.toml": 'keep = ["*"]\n',
        "torn.toml": '[default]\nrates = ["8/20"',
        "recipe.toml": "epoch = 3\n",
        "text.onnx": "no graph",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "cut").mkdir()
    for name in FILES:
        (tmp_path / "cut" / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x10" + bytes(16))[:-12])
    write_pickle(write_cifar10(tmp_path / "cifar", per_batch=2) / FOLDER / "data_batch_2", cifar_batch(1))
    for part in ("train", "val"):
        (write_imagenet(tmp_path / "imagenet", train=1, val=1) / part / "n00000002").mkdir()
    labels = np.arange(20, dtype=np.uint8) % 11
    write_idx_files(tmp_path / "mnist", train=20, test=20, side=28)
    for name in (TRAIN_LABELS, TEST_LABELS):
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def contents(folder):
    return {path: path.stat().st_size for path in folder.rglob("*")}


def is_one_line(ended, code, words):
    assert ended.out == ""
    assert ended.err.startswith("flexor-search: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1, ended.err
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err) < 600
    assert ended.code == code


NO_QUESTION = ("unknown option", "unknown command", "trials that are no number", "a word too many")
NO_QUESTION += ("an option before its command", "resume without a folder")
"""Cases of the command line alone; wrong keys and types in a file and in Python are in test_config.py."""


@pytest.mark.parametrize(("args", "words"), USAGE.values(), ids=USAGE)
def test_a_wrong_question_is_refused_before_anything_is_done(folder, command, monkeypatch, args, words):
    monkeypatch.setattr(api, "check_fits", lambda *_: pytest.fail("data were loaded"))
    before = contents(folder)
    ended = command(*args)
    is_one_line(ended, 2, words)
    others = [by_file(command, args), by_python(args)]
    assert others == ([None] * 2 if args in [USAGE[name][0] for name in NO_QUESTION] else [ended] * 2)
    assert contents(folder) == before


@pytest.mark.parametrize(("args", "words"), FAILED.values(), ids=FAILED)
def test_what_cannot_be_used_is_refused_in_words(folder, command, args, words):
    before = contents(folder)
    quiet = ("--quiet",) if args[0] in ("--budget", "resume") else ()
    ended = command(*args, *quiet)
    is_one_line(ended, 1, words)
    if "hopeless" in " ".join(args):  # it trains, so by one door alone
        return
    assert by_file(lambda *asked: command(*asked, *quiet), args) == (ended if args[0] == "--budget" else None)
    assert by_python(args) == (None if args[0] in ("export", "inspect") else ended)  # the first has keywords there
    assert contents(folder) == before


def test_a_budget_that_nothing_can_use_goes_on_and_says_so(folder, command):
    small = ("--trials", "1", "--epochs", "1", "--seeds", "1")
    ended = command(*with_own(budget="9999bpw"), *small)
    assert ended.code == 0
    assert "9999bpw is more than this space can use (1bpw)" in ended.err
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["budgets"][0]["bits_per_weight"] <= 1


def test_a_folder_of_another_question_is_refused_and_left_as_it_was(real_run, tmp_path, command):
    shutil.copytree(real_run.folder, tmp_path / "copy")
    before = contents(tmp_path)
    for change, words in (
        (("--seed", "5"), "what differs: seed (there 0, here 5). Choose another --out"),
        (("--epochs", "5"), "what differs: recipe (there "),
        (("--space", "lenet5"), "what differs: space (there "),
    ):
        is_one_line(command(*QUESTION, *change, "--out", "copy", "--quiet"), 1, words)
        assert contents(tmp_path) == before


def test_a_folder_in_use_is_refused(real_run, tmp_path, command):
    from flexor_search.runs import Run

    shutil.copytree(real_run.folder, tmp_path / "copy")
    holder = Run.open(tmp_path / "copy")
    holder.lock()
    before = (tmp_path / "copy" / "run.toml").read_bytes()
    is_one_line(command("resume", "copy", "--trials", "9", "--quiet"), 1, "copy is in use by another process")
    holder.unlock()
    assert (tmp_path / "copy" / "run.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--trial", "0", "--budget", "0.7bpw"), 2, "export: give either --budget or --trial"),
        (("--to", "model.onx"), 2, "'model.onx' ends in no format of ours; did you mean '.onnx'? known: "),
        (("--trial", "-3"), 2, "Invalid value for '--trial'"),
        (("--trial", "99"), 2, "the run has no trial 99; it has 0 to "),
        (("--budget", "0.7"), 2, "is not a positive number with a unit"),
        (("--budget", "0.01bpw"), 2, "below the least reachable size"),
        (("--budget", "0.06bpw"), 1, "fits 0.06bpw; bits per weight trained: "),
        (("--trial", "0", "--to", "/proc/none/x.safetensors"), 1, "cannot write /proc/none/x.safetensors"),
        (("--trial", "0", "--to", "/proc/none/x"), 1, "cannot write /proc/none/x"),
    ],
)
def test_an_export_that_cannot_be_is_refused(real_run, tmp_path, command, args, code, words):
    shutil.copytree(real_run.folder, tmp_path / "copy")
    before = contents(tmp_path)
    is_one_line(command("export", "copy", *args), code, words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", "[question"),
        ("run.toml", '[question]\nbudget = 3\n[fingerprint]\ncode = "0"\n'),
        ("run.toml", '[question]\ntrials = 3\n[fingerprint]\ncode = "0"\n'),
        ("run.toml", '[question]\nbudget = "0.7bpw"\ntrials = "six"\n[fingerprint]\n'),
        ("measurements.csv", "number\n0\n"),
        ("summary.json", "{"),
    ],
)
def test_a_damaged_run_is_refused_in_words(real_run, tmp_path, command, name, text):
    shutil.copytree(real_run.folder, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(text)
    args = ("report", "copy") if name == "summary.json" else ("resume", "copy", "--quiet")
    is_one_line(command(*args), 1, f"{name} is damaged")


PACKED = {
    "cut": (lambda raw: raw[:-1], "SHA-256 does not match"),
    "cut in its header": (lambda raw: raw[:100], "cut short"),
    "empty": (lambda raw: b"", "too few for a packed file"),
    "one byte changed": (lambda raw: raw[:-50] + bytes([raw[-50] ^ 1]) + raw[-49:], "SHA-256 does not match"),
    "a newer version": (
        lambda raw: raw.replace(b'\\"version\\":2,', b'\\"version\\":3,', 1),
        "it has format version 3, this program reads up to 2; update flexor-search",
    ),
    "another safetensors file": (lambda raw: b"\x02\0\0\0\0\0\0\0{}", "it is not a packed file"),
}


@pytest.mark.parametrize(("damage", "words"), PACKED.values(), ids=PACKED)
def test_a_damaged_packed_file_is_refused_in_words(real_run, tmp_path, command, damage, words):
    raw = (real_run.folder / "model-0.7bpw.safetensors").read_bytes()
    damaged = damage(raw)
    assert damaged != raw
    (tmp_path / "x.safetensors").write_bytes(damaged)
    is_one_line(command("verify", "x.safetensors"), 1, words)
    is_one_line(command("verify", "x.safetensors", "--json"), 1, words)


@pytest.mark.parametrize(("args", "code"), [(("verify", "absent"), 1), (("--budget", "0.01bpw"), 2)])
def test_it_is_the_same_in_a_process_of_its_own(tmp_path, args, code):
    ended = run_apart(*args, cwd=tmp_path)
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("flexor-search: ")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
