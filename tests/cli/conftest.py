import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flexor_search import cli

from .helpers import QUESTION, Ended, run_apart


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in this process, in an empty folder: a function of its arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    handler, threads, modules = signal.getsignal(signal.SIGTERM), torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["flexor-search", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ended(ended.value.code, out, err)

    yield call
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:  # the user's own modules of this test
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@dataclass(frozen=True)
class RealRun:
    """A whole run of the command, not to be changed."""

    folder: Path
    ended: Ended


@pytest.fixture(scope="session")
def real_run(tmp_path_factory):
    """One real run on the digits, in a process of its own, for all tests to look at."""
    folder = tmp_path_factory.mktemp("real") / "run"
    ended = run_apart(*QUESTION, "--out", folder, cwd=folder.parent)
    assert ended.code == 0, ended.err
    return RealRun(folder, ended)
