"""Another question is known by its sources: the user's own, and this package's."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import flexor_search
from flexor_search.fingerprint import DECIDING, code_digest, given_values_digest, source_digests
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
