"""How many gates a decoder takes, and how deep it is, beside the arithmetic that its weights feed; by yosys.

The paper calls the XOR gates negligible. Here every code becomes the module that `export --to decoder.v` writes, and
one yosys run maps it and two small pieces of integer arithmetic to the same two-input gates: AND, OR, XOR, and NOT. A
gate is a gate in these counts, whatever its area; docs/hardware.md says what that hides.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from flexor_search.codes import make_code
from flexor_search.packing.verilog_file import code_module

N_OUT = 20
N_IN_DRAWN = (4, 8, 12, 16, 20)
CODES = {
    "systematic, two taps": ("systematic", 2),
    "systematic, three taps": ("systematic", 3),
    "random two taps": ("taps", 2),
    "dense": ("random", 2),
}
"""What the table calls a code: its family and n_tap."""

ARITHMETIC = {
    "multiply_accumulate": """\
module multiply_accumulate (input [7:0] a, input [7:0] b, input [15:0] c, output [16:0] y);
  assign y = a * b + c;
endmodule
""",
    "binary_accumulate": """\
module binary_accumulate (input w, input signed [7:0] a, input signed [15:0] c, output signed [15:0] y);
  assign y = w ? c + a : c - a;
endmodule
""",
}
"""What a weight does in hardware, once for an 8-bit weight and once for a one-bit weight; integers, no registers."""

SYNTHESIS = "read_verilog {source}; synth -noabc; abc -g AND,OR,XOR; opt_clean; check -assert"
"""AND and OR stand in the list because ABC cannot map to XOR alone."""


@dataclass(frozen=True)
class Circuit:
    """What yosys made of a module."""

    gates: int
    depth_gates: int
    gates_by_kind: dict[str, int]


@dataclass(frozen=True)
class CodeCost:
    """A decoder's cost; it gives n_out weights at once, so its gates per weight are what one weight adds."""

    code: str
    n_in_drawn: int
    n_in: int
    n_out: int
    xor_gates: int
    depth_gates: int
    gates_per_weight: float
    share_of_multiply_accumulate: float
    share_of_binary_accumulate: float


def main() -> int:
    """Measure, print, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    try:
        version, arithmetic, costs = measure()
    except FileNotFoundError:
        print("benchmarks.gates: yosys is not installed; on Debian: apt install yosys", file=sys.stderr)
        return 1
    if as_json:
        print(
            json.dumps(
                {"yosys": version}
                | {name: asdict(circuit) for name, circuit in arithmetic.items()}
                | {"codes": [asdict(cost) for cost in costs]},
                indent=2,
            )
        )
    else:
        print(table(version, arithmetic, costs))
    return 0


def measure() -> tuple[str, dict[str, Circuit], list[CodeCost]]:
    """Synthesize everything in one yosys run.

    Returns:
        yosys's version, the arithmetic by name, and the cost of every code.

    Raises:
        FileNotFoundError: yosys is not installed.
    """
    drawn = {
        (name, n_in): make_code(family, n_in, N_OUT, n_tap=n_tap).reduced().code
        for name, (family, n_tap) in CODES.items()
        for n_in in N_IN_DRAWN
    }
    modules = {key: f"code_{number}" for number, key in enumerate(drawn)}
    sources = [code_module(code, modules[key]) for key, code in drawn.items()]
    circuits = synthesize("\n".join([*ARITHMETIC.values(), *sources]))
    arithmetic = {name: circuits[name] for name in ARITHMETIC}
    costs = []
    for (name, n_in_drawn), code in drawn.items():
        circuit = circuits[modules[name, n_in_drawn]]
        if not circuit.gates_by_kind.keys() <= {"XOR"}:
            raise RuntimeError(f"{name} {n_in_drawn}/{N_OUT} became {circuit.gates_by_kind}, not XOR gates only")
        per_weight = circuit.gates / N_OUT
        costs.append(
            CodeCost(
                *(name, n_in_drawn, code.n_in, N_OUT, circuit.gates, circuit.depth_gates, per_weight),
                share_of_multiply_accumulate=per_weight / arithmetic["multiply_accumulate"].gates,
                share_of_binary_accumulate=per_weight / arithmetic["binary_accumulate"].gates,
            )
        )
    return yosys_version(), arithmetic, costs


def synthesize(source: str) -> dict[str, Circuit]:
    """Map Verilog modules, each by itself, to two-input gates.

    Raises:
        FileNotFoundError: yosys is not installed.
        RuntimeError: yosys refuses the source.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("source.v", "netlist.json", "depth.txt")}
        files["source.v"].write_text(source, encoding="ascii")
        # The netlist is counted here: what `stat -json` prints is not JSON where there are several modules.
        run_yosys(
            "-q",
            *("-p", SYNTHESIS.format(source=files["source.v"])),
            *("-p", f"write_json {files['netlist.json']}; tee -q -o {files['depth.txt']} ltp -noff"),
        )
        netlist = json.loads(files["netlist.json"].read_text())["modules"]
        depths = dict(re.findall(r"path in (\w+) \(length=(\d+)\)", files["depth.txt"].read_text()))
    circuits = {}
    for name, module in netlist.items():
        kinds = sorted(cell["type"].strip("$_") for cell in module["cells"].values())
        by_kind = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        circuits[name] = Circuit(len(kinds), int(depths[name]), by_kind)
    return circuits


def yosys_version() -> str:
    """Such as "0.23"."""
    return run_yosys("-V").split()[1]


def run_yosys(*arguments: str) -> str:
    """Run yosys and return what it printed."""
    done = subprocess.run(["yosys", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"yosys {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def table(version: str, arithmetic: dict[str, Circuit], costs: list[CodeCost]) -> str:
    """The Markdown tables of docs/hardware.md."""
    lines = ["| arithmetic | gates | depth | of which |", "| --- | ---: | ---: | --- |"]
    for name, circuit in arithmetic.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in circuit.gates_by_kind.items())
        lines.append(f"| {name.replace('_', ' ')} | {circuit.gates} | {circuit.depth_gates} | {kinds} |")
    lines += [
        "",
        "| code | drawn | stored | XOR gates | depth | gates per weight | share of multiply accumulate "
        "| share of binary accumulate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {cost.code} | {cost.n_in_drawn}/{cost.n_out} | {cost.n_in}/{cost.n_out} | {cost.xor_gates} "
        f"| {cost.depth_gates} | {cost.gates_per_weight:.2f} | {cost.share_of_multiply_accumulate:.2%} "
        f"| {cost.share_of_binary_accumulate:.2%} |"
        for cost in costs
    ]
    return "\n".join([*lines, "", f"yosys {version}"])


if __name__ == "__main__":
    sys.exit(main())
