"""Another question is known by its sources: the user's own, and this package's."""

import functools
import importlib
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from pathlib import Path

import pytest
import torch
from torch import nn

import flexor_search
from flexor_search.errors import RunError
from flexor_search.fingerprint import (
    DECIDING,
    code_digest,
    frozen_parameters,
    given_values_digest,
    refuse_other_code,
    source_digests,
)
from flexor_search.model_code import model_code_digest
from flexor_search.workloads.given import GivenBuild

FILES = {
    "mine.py": "import helper\nimport torch\n\ndef build():\n    from parts.block import Block\n\ndef loaders(): ...\n",
    "helper.py": "import sys\nfrom parts import table\n",
    "parts/__init__.py": "",
    "parts/table.py": "def never():\n    from .. import unknown  # beyond the top\n",
    "parts/block.py": "from . import inner\nfrom .deep.leaf import x\nimport parts.missing\n",
    "parts/inner.py": "import helper  # around in a circle\n",
    "parts/deep/__init__.py": "",
    "parts/deep/leaf.py": "x = 1\n",
    "parts/unused.py": "",
    "other.py": "import parts.unused\n",
}
USED = {"mine", "helper", "parts", "parts.table", "parts.block", "parts.inner", "parts.deep", "parts.deep.leaf"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_module_and_all_that_it_may_import_of_the_project_counts(project):
    assert set(source_digests("mine:build")) == USED
    assert source_digests("mine:build") == source_digests("mine:loaders")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_change_shows_in_the_digest_of_its_module_and_in_no_other(project, name):
    before = source_digests("mine:build")
    path = project / name
    path.write_text(path.read_text() + "\n# changed\n")
    after = source_digests("mine:build")
    assert after.keys() == before.keys()
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert {key for key in before if before[key] != after[key]} == {module} & USED


def test_line_breaks_do_not_count(project):
    before = source_digests("mine:build")
    path = project / "mine.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert source_digests("mine:build") == before


def test_a_module_inside_of_a_package_is_followed_from_the_packages_folder(project):
    assert set(source_digests("parts.inner:build")) == {"parts.inner", "helper", "parts", "parts.table"}


def test_a_helper_that_is_no_python_is_counted_and_not_followed(project):
    (project / "helper.py").write_text("def (\n")
    (project / "mine.py").write_text("def build():\n    import helper\n")
    assert set(source_digests("mine:build")) == {"mine", "helper"}


def test_of_an_installed_package_the_module_alone_is_read():
    assert set(source_digests("numpy.linalg:norm")) == {"numpy.linalg"}
    assert source_digests("math:sqrt") == {}  # compiled: there is no source


@pytest.mark.parametrize("reference", ["", "<given in Python>", "<given in Python: build>", "no function"])
def test_what_names_no_module_has_no_source(reference):
    assert source_digests(reference) == {}


def test_the_packages_own_code_counts_where_it_decides_results(tmp_path):
    for folder in (*DECIDING, "reporting"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text("x = 1\n")
    (tmp_path / "cli.py").write_text("x = 1\n")
    before = code_digest(tmp_path)
    for path in (tmp_path / "cli.py", tmp_path / "reporting" / "one.py"):
        path.write_text("x = 2\n")
        assert code_digest(tmp_path) == before
    for folder in DECIDING:
        path = tmp_path / folder / "one.py"
        path.write_text("x = 2\n")
        assert code_digest(tmp_path) != before
        path.write_text("x = 1\n")
    (tmp_path / "codes" / "one.py").rename(tmp_path / "codes" / "two.py")
    assert code_digest(tmp_path) != before


def test_every_folder_that_decides_is_there():
    package = Path(flexor_search.__file__).parent
    for folder in DECIDING:
        assert list((package / folder).glob("*.py")), folder


class Gain(nn.Module):
    """A part whose values nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


def test_values_that_are_drawn_do_not_count_and_given_ones_do():
    torch.manual_seed(5)
    one, other = nn.Sequential(nn.Linear(3, 3), Gain()), nn.Sequential(nn.Linear(3, 3), Gain())
    drawn = given_values_digest(GivenBuild(one))
    assert given_values_digest(GivenBuild(other)) == drawn
    kept = given_values_digest(GivenBuild(one, pretrained=True))
    assert kept not in (drawn, given_values_digest(GivenBuild(other, pretrained=True)))
    with torch.no_grad():
        other[1].gain[1] = 2.0
    assert given_values_digest(GivenBuild(other)) != drawn


def test_a_changed_bit_of_a_pretrained_weight_is_another_question():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = given_values_digest(GivenBuild(model, pretrained=True))
    assert given_values_digest(GivenBuild(model, pretrained=True)) == before
    with torch.no_grad():
        model[1].running_var[1] = 1.0078125  # the next bfloat16 after 1
    assert given_values_digest(GivenBuild(model, pretrained=True)) != before


NET = """
import torch
from torch import nn
from types import SimpleNamespace

class Scale(nn.Module):
    by = 2.0  # as it was

    def __init__(self):
        super().__init__()
        self.kinds, self.config = {"relu", "gelu", "tanh"}, SimpleNamespace(slope=0.1, sizes=(1, 2))
        self.function = lambda x: x * 3

    def forward(self, x):
        return self.function(x) * self.by if "relu" in self.kinds else x

def build():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Scale(), nn.Flatten(), nn.Linear(256, 3))
"""


def net_of(source, name):
    """What a module of this source, which lies nowhere, builds."""
    module = type(sys)(name)
    exec(compile(source, "<nowhere>", "exec"), vars(module))
    return module.build


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "is_other"),
    [
        ("nn.ReLU()", "nn.GELU()", True),
        ("padding=1)", "padding=1, padding_mode='circular')", True),
        ("by = 2.0", "by = 2.5", True),
        ("slope=0.1", "slope=0.2", True),
        ("x * 3", "x * 4", True),
        ("* self.by", "/ self.by", True),
        ("  # as it was", "  # told otherwise", False),
    ],
)
def test_what_a_model_computes_is_told_apart_whatever_its_shapes(
    tmp_path, monkeypatch, in_file, before, after, is_other
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    digests = []
    for name, source in (("net_before", NET), ("net_after", NET.replace(before, after))):
        if in_file:
            (tmp_path / f"{name}.py").write_text(source)
            importlib.invalidate_caches()
            sys.modules.pop(name, None)
            build = importlib.import_module(name).build
        else:
            build = net_of(source, name)
        digests.append(model_code_digest(build))
    assert (digests[0] != digests[1]) == is_other


def test_what_a_model_computes_is_known_again_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(NET)
    work = "from flexor_search.model_code import model_code_digest; import mine; print(model_code_digest(mine.build))"
    found = [
        subprocess.run(
            [sys.executable, "-c", work],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] != ""


class Mode(Enum):
    """One of its members prints an address."""

    SMOOTH = partial(lambda x: x)
    STEEP = 0.5


@dataclass(slots=True)
class Config:
    heads: int = 2


class Living(nn.Module):
    """What a running model changes is none of its code."""

    made = 0
    cache = {}  # noqa: RUF012

    def __init__(self, config=None, scale=1.0, mode=Mode.SMOOTH, act=torch.tanh, nonlinearity="tanh"):
        super().__init__()
        Living.made += 1
        self.number, self.calls, self.seen, self.mode = Living.made, 0, None, mode
        self.config, self._act, self.places = config or Config(), act, {}
        self.attention = nn.MultiheadAttention(8, self.config.heads)
        self.rnn = nn.RNN(8, 8, nonlinearity=nonlinearity)
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.anchors = torch.arange(3.0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._configure(scale)

    def _configure(self, scale):
        self.scale = scale

    @cached_property
    def late(self):
        return torch.ones(3)

    @torch.no_grad()
    def forward(self, x):
        self._count()
        self.seen = x.shape
        Living.cache[self.calls] = x
        self.places[len(x)] = x + self.late[0]
        return x

    def _count(self):
        self.calls += 1


def test_what_running_changes_does_not_count():
    net = Living()
    given, before = model_code_digest(GivenBuild(net)), model_code_digest(Living)
    net(torch.ones(2, 8))
    net.requires_grad_(False)
    assert (model_code_digest(GivenBuild(net)), model_code_digest(Living)) == (given, before)
    assert len(frozen_parameters(GivenBuild(net))) == len(list(net.parameters())) > len(frozen_parameters(Living))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Living, "__module__", "somewhere.else")
        patch.setattr(Config, "__module__", "somewhere.else")
        patch.setattr(torch.cuda, "is_available", lambda: True)  # another machine
        assert model_code_digest(Living) == before


@pytest.mark.parametrize(
    "other",
    [
        {"config": Config(heads=4)},  # which torch does not print
        {"scale": 2.0},
        {"mode": Mode.STEEP},
        {"act": torch.sin},
        {"nonlinearity": "relu"},
    ],
)
def test_settings_count_wherever_they_are_kept(other):
    assert model_code_digest(lambda: Living(**other)) != model_code_digest(Living)


@pytest.mark.parametrize("name", ["mask", "anchors"])
def test_constants_that_no_file_keeps_count(name):
    net = Living()
    before = model_code_digest(GivenBuild(net))
    getattr(net, name)[1] = 7
    assert model_code_digest(GivenBuild(net)) != before


def test_objects_that_cannot_be_looked_at_do_no_harm():
    class Odd(dict):
        def items(self):
            raise KeyError("missing")

    class Odder:
        def __getattr__(self, name):
            raise KeyError(name)

    net = Living()
    net.cfg, net.more = Odd(a=1), Odder()
    assert model_code_digest(lambda: net) == model_code_digest(lambda: net)


def test_lambdas_of_one_line_and_what_decorators_wrap_are_told_apart():
    def scaled(by):
        def wrap(function):
            @functools.wraps(function)
            def forward(self, x):
                return function(self, x) * by

            return forward

        return wrap

    def net(by, index):
        class Net(nn.Module):
            function = staticmethod([lambda x: x + 1, lambda x: x * 2][index])
            forward = scaled(by)(lambda self, x: self.function(x))

        return Net()

    digests = {model_code_digest(lambda by=by, i=i: net(by, i)) for by in (1, 2) for i in (0, 1)}
    assert len(digests) == 4


class Steep(nn.ReLU):
    """A part that holds what is told by more than its value."""

    def __init__(self, slope, kept):
        super().__init__()
        self.function, self.kept = partial(torch.clamp, min=slope), kept

    def forward(self, x):
        return self.function(x)


def test_settings_of_parts_count():
    one = model_code_digest(lambda: Steep(0.5, torch.float32))
    assert model_code_digest(lambda: Steep(0.5, torch.float32)) == one
    assert model_code_digest(lambda: Steep(0.25, torch.float32)) != one
    assert model_code_digest(lambda: Steep(0.5, torch.float64)) != one
    with pytest.raises(RunError, match="code has changed since runs/x was measured"):
        refuse_other_code({"model code": one}, lambda: Steep(0.25, torch.float32), Path("runs/x"))
    refuse_other_code({"model code": one}, lambda: Steep(0.5, torch.float32), Path("runs/x"))
    refuse_other_code({}, lambda: Steep(0.5, torch.float32), Path("runs/x"))
