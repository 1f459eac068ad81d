"""Help is at once there: nothing heavy is imported for it."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "optuna", "pandas", "plotly", "ray", "numba", "sklearn", "scipy", "numpy")

AFTER = """
import json, sys
sys.argv = {argv!r}
from flexor_search.cli import main
try:
    main()
except SystemExit as ended:
    print(json.dumps([ended.code, sorted(name for name in {heavy!r} if name in sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--help"], "--budget"),
        (["-h"], "resume"),
        (["resume", "--help"], "--trials"),
        (["export", "--help"], "--trial"),
        (["--version"], "flexor-search "),
    ],
)
def test_help_imports_nothing_heavy(args, words):
    code = AFTER.format(argv=["flexor-search", *args], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert words in done.stdout
    assert json.loads(done.stderr) == [0, []]


def test_help_names_every_command_and_fits_a_terminal():
    done = subprocess.run([sys.executable, "-m", "flexor_search", "--help"], capture_output=True, text=True, check=True)
    for name in ("plan", "resume", "report", "export", "verify"):
        assert f"\n  {name} " in done.stdout
    for name in ("--budget", "--workload", "--model", "--data", "--space", "--trials", "--timeout", "--seeds", "--out"):
        assert name in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""
