"""README and docs hold: marked code runs as it stands there, commands are known, links lead somewhere, the site builds.

A block behind `<!-- run -->` is run, one behind `<!-- file NAME -->` is written, page by page in one folder: what the
tutorial made is there for the pages that go on with it. Other blocks must at least be Python, or commands that exist.
"""

import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from flexor_search import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
OWN_LINES = 15
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<kind>\w+)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what stands before it."""

    page: str
    line: int
    mark: str
    kind: str
    code: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start("code")].count("\n") + 1, found["mark"] or "", found["kind"], found["code"])
        for found in BLOCK.finditer(text)
    ]


def commands(text):
    """Lines that call the tool, continued lines joined, without comments."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r"\s*(\$ )?flexor-search\s", line)]


class Reader:
    """Does in a folder what a page says."""

    def __init__(self, folder):
        self.folder, self.said = folder, {}

    def follow(self, page):
        """Run and write all marked blocks of a page; returns what they printed."""
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            for block in blocks(page):
                if block.mark.startswith("file "):
                    Path(block.mark.removeprefix("file ")).write_text(block.code)
                elif block.mark == "run" and block.kind == "python":
                    exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})
                elif block.mark == "run":
                    for line in block.code.splitlines():
                        self.command(block, line)
        self.said[page] = out.getvalue()
        return self.said[page]

    def command(self, block, line):
        words = shlex.split(line, comments=True)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
            patch.setattr(sys, "argv", words)
            code = ended_with(words, patch)
        assert code in (0, None), f"{block}: {line}\n{said.getvalue()}"


def ended_with(words, patch):
    """The exit code of a command, run in this process: importing torch anew takes longer than all else."""
    try:
        if words[0] == "python":
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
        else:
            assert words[0] == "flexor-search"
            cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(ROOT / "docs" / "examples" / "decode_standalone.py", folder)
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        torch.set_num_threads(1)
        made = Reader(folder)
        made.follow("docs/tutorial-own-model.md")
        yield made
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)
    sys.modules.pop("mine", None)


def count_of(said):
    """The last "N of M test images"."""
    right, every = re.findall(r"(\d+) of (\d+) test images", said)[-1]
    return int(right), int(every)


def test_the_tutorial_gives_an_own_packed_model_with_few_own_lines(reader):
    (own,) = [block for block in blocks("docs/tutorial-own-model.md") if block.mark.startswith("file ")]
    assert len([line for line in own.code.splitlines() if line.strip()]) <= OWN_LINES
    right, every = count_of(reader.said["docs/tutorial-own-model.md"])
    assert right > 0.6 * every  # five classes: what was packed has learned
    assert (reader.folder / "runs" / "try" / "report.html").stat().st_size > 0
    assert (reader.folder / "runs" / "try" / "model-0.52bpw.safetensors").is_file()


def test_from_file_to_device_gives_the_same_answers(reader):
    said = reader.follow("docs/device.md")
    assert count_of(said) == count_of(reader.said["docs/tutorial-own-model.md"])
    assert (reader.folder / "decoder_tb.v").is_file()
    assert (reader.folder / "hub" / "my-net" / "config.json").is_file()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ("docs/tutorial-own-model.md", "docs/device.md")]
)
def test_marked_code_of_other_pages_runs(reader, page):
    if any(block.mark for block in blocks(page)):
        reader.follow(page)


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_is_python(page):
    for block in blocks(page):
        if block.kind == "python":
            compile(block.code, str(block), "exec")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_exists(page):
    group = typer.main.get_command(cli.app)
    for line in commands((ROOT / page).read_text(encoding="utf-8")):
        words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
        if not words or "..." in words or any("|" in word for word in words):
            continue
        words = words[: words.index("&&")] if "&&" in words else words
        if words[0] in group.commands:
            group.commands[words[0]].make_context(words[0], words[1:], resilient_parsing=True)
        elif words[0].startswith("-"):
            group.make_context("flexor-search", words, resilient_parsing=True)
        else:
            pytest.fail(f"{page}: {line}: no such command")


@pytest.mark.parametrize(
    "page", [*PAGES, *(f"studies/{p.parent.name}/README.md" for p in (ROOT / "studies").glob("*/README.md"))]
)
def test_every_link_inside_the_project_leads_somewhere(page):
    text = CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in LINK.findall(text) if not ((ROOT / page).parent / link).exists()]
    assert missing == []


def test_every_study_has_its_row():
    index = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in index.splitlines() if line.startswith("| [")]
    named = [re.match(r"\| \[([\w-]+)\]\(([\w-]+)/", row).group(1, 2) for row in rows]
    kinds = ("README.md", "study.toml", "run.py")
    folders = {path.parent.name for kind in kinds for path in (ROOT / "studies").glob(f"*/{kind}")}
    assert sorted(named) == sorted((name, name) for name in folders)
    assert all(row.count("|") == 6 for row in rows)
    run = {name for name in folders if (ROOT / "studies" / name / "README.md").exists()}
    assert all("not run yet" in row for row, (name, _) in zip(rows, named, strict=True) if name not in run)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs-material")
def test_the_site_builds_strictly_and_asks_for_nothing_from_elsewhere(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 9
    for page in pages:
        loads = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text()
        )
        assert loads == [], page
