"""benchmarks.gates counts what can be counted by hand, and says so where yosys is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def benchmark(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gates", *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.hardware
@pytest.mark.skipif(shutil.which("yosys") is None, reason="needs Debian's yosys")
def test_codes_whose_gates_can_be_counted_by_hand():
    done = benchmark("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    costs = {(cost["code"], cost["n_in_drawn"]): cost for cost in found["codes"]}
    assert len(costs) == 20
    for n_in in (4, 8, 12, 16, 20):
        two, three = costs["systematic, two taps", n_in], costs["systematic, three taps", n_in]
        # Rows are distinct while there are enough pairs: of 4 inputs there are 6. Sharing cannot help single gates.
        assert two["xor_gates"] == min(20 - n_in, n_in * (n_in - 1) // 2)
        assert (two["depth_gates"], three["depth_gates"]) == ((1, 2) if n_in < 20 else (0, 0))
        assert two["xor_gates"] <= three["xor_gates"] <= 2 * (20 - n_in)
        assert costs["random two taps", n_in]["depth_gates"] == 1
        assert costs["random two taps", n_in]["xor_gates"] <= 20
        assert costs["dense", n_in]["depth_gates"] <= 5
    for cost in costs.values():
        assert cost["gates_per_weight"] == cost["xor_gates"] / 20
        share = cost["gates_per_weight"] / found["binary_accumulate"]["gates"]
        assert cost["share_of_binary_accumulate"] == share
    mac = found["multiply_accumulate"]
    assert mac["gates"] == sum(mac["gates_by_kind"].values()) > found["binary_accumulate"]["gates"] > 16


def test_without_yosys_one_line_says_what_to_install():
    done = benchmark(PATH="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "benchmarks.gates: yosys is not installed; on Debian: apt install yosys\n"
