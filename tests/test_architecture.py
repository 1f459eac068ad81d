"""The walls between the storeys stand, and the package itself is light."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import importlib, json, sys
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in {forbidden!r} if name in sys.modules)))
"""


def heavy_after_importing(names, forbidden):
    code = PROBE.format(names=names, forbidden=forbidden)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_contracts_between_the_storeys_hold():
    pytest.importorskip("importlinter", reason="import-linter is a development tool")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_importing_the_package_imports_nothing_else():
    everything = ("torch", "numpy", "optuna", "pandas", "plotly", "ray", "pydantic", "rich", "typer", "safetensors")
    assert heavy_after_importing(["flexor_search"], everything) == []


def test_the_storeys_that_only_compute_and_tell_come_without_torch():
    storeys = [f"flexor_search.{name}" for name in ("codes", "planning", "runs", "reporting")]
    assert heavy_after_importing(storeys, ("torch", "torchvision", "optuna", "ray")) == []


def test_what_trains_and_packs_comes_without_the_search():
    storeys = [f"flexor_search.{name}" for name in ("quantization", "training", "packing", "workloads")]
    onnx = ("onnx", "onnxruntime", "onnxscript")
    assert heavy_after_importing(storeys, ("optuna", "ray", "plotly", "pandas", *onnx)) == []


def test_every_module_says_what_it_is():
    for path in (ROOT / "flexor_search").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path
