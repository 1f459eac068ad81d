"""Decoders as hardware: a Verilog module of XOR gates for each distinct code, and a test bench that checks them.

The modules are the decoder only, without memory and without arithmetic; they are plain Verilog-2001. The bench holds
vectors from the packed model's own payload with what the reference decoder makes of them; it needs SystemVerilog's
`$fatal`, so that a simulator ends with an error where a bit differs. docs/hardware.md says how to run it.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexor_search.codes import XorCode, decode_reference, unpack_planes
from flexor_search.errors import FormatError, UsageError, VerificationError
from flexor_search.files import write_atomically
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.verify import Checks

PAYLOAD_VECTORS_PER_CODE = 256
"""Most stored slices of the model that the bench drives through each code, evenly spaced over all that use it."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_HEADER = """\
// XOR decoders of a packed model, written by flexor-search: one module for each distinct code, XOR gates only.
// Names are those of the packed format (docs/format.md, "Decoding a layer"):
//   x[j]  stored bit j of slice s: bit s of the code's stored plane j
//   y[r]  weight bit r of slice s: that of weight r * S + s, where S is the number of slices; past the last: surplus
// A plane adds scale * (2 * bit - 1) to its weight: bit 1 is +scale, bit 0 is -scale.
"""
_BENCH_HEADER = """\
// Checks every module of the decoder file against the reference decoder; needs SystemVerilog's $fatal:
//   iverilog -g2012 -o decoder_tb decoder.v decoder_tb.v && vvp -n decoder_tb
"""
_BENCH_END = """\
    if (failures != 0) begin
      $display("FAIL %0d of %0d vectors", failures, vectors);
      $fatal(1, "a decoder differs from the reference");
    end else begin
      $display("PASS %0d vectors", vectors);
      $finish(0);
    end
  end
endmodule
"""


@dataclass
class _Use:
    """A distinct code: its module's name, and for each plane that uses it the words and the stored bits."""

    code: XorCode
    module: str
    users: list[str] = field(default_factory=list)
    stored: list[NDArray[np.uint8]] = field(default_factory=list)


def code_module(code: XorCode, name: str) -> str:
    """A code as one combinational module.

    Args:
        code: what to decode.
        name: of the module, a Verilog identifier.

    Returns:
        Verilog-2001 with input x[n_in-1:0], output y[n_out-1:0], and y[r] = XOR of the taps of row r. The gates of a
        row are written as a balanced tree: ceil(log2(taps)) deep, whether or not a tool reorders them.

    Raises:
        ValueError: name is no identifier.

    Example:
        >>> print(code_module(XorCode(3, ((0,), (0, 1), (0, 1, 2))), "tiny"))
        // tiny: 3 stored bits give 3 weight bits, bit meaning as in docs/format.md; weight = scale * (2 * bit - 1)
        module tiny (
          input  wire [2:0] x,
          output wire [2:0] y
        );
          assign y[0] = x[0];
          assign y[1] = x[0] ^ x[1];
          assign y[2] = (x[0] ^ x[1]) ^ x[2];
        endmodule
        <BLANKLINE>
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"name: must be letters, digits and underscores and not begin with a digit, got {name!r}")
    rows = (f"  assign y[{row}] = {_tree(taps)};\n" for row, taps in enumerate(code.taps))
    return (
        f"// {name}: {code.n_in} stored bits give {code.n_out} weight bits, bit meaning as in docs/format.md; "
        "weight = scale * (2 * bit - 1)\n"
        f"module {name} (\n  input  wire [{code.n_in - 1}:0] x,\n  output wire [{code.n_out - 1}:0] y\n);\n"
        f"{''.join(rows)}endmodule\n"
    )


def code_modules(packed: PackedModel) -> str:
    """Every distinct code of a packed model as a module, in order of first use, with the planes that use it.

    Raises:
        UsageError: the model has no quantized layer.
    """
    parts = [_FILE_HEADER]
    for use in _uses(packed):
        users = "".join(f"//   {user}\n" for user in use.users)
        parts.append(f"// {use.module} decodes:\n{users}{code_module(use.code, use.module)}")
    return "\n".join(parts)


def test_bench(packed: PackedModel) -> str:
    """A bench that drives every module of `code_modules` and compares each output with the reference decoder.

    Its vectors are all zeros, all ones, each stored bit alone, and up to PAYLOAD_VECTORS_PER_CODE slices of the
    model's payload. It prints `PASS <n> vectors`, or the first mismatch and `FAIL <m> of <n> vectors` and ends with
    `$fatal`.

    Raises:
        UsageError: the model has no quantized layer.
    """
    uses = _uses(packed)
    declared = "\n".join(_bench_of_code(number, use) for number, use in enumerate(uses))
    checks = "".join(
        f"    check_{number}({use.code.n_in}'h{stored:x}, {use.code.n_out}'h{expected:x});\n"
        for number, use in enumerate(uses)
        for stored, expected in _vectors(use)
    )
    start = "  initial begin\n    vectors = 0;\n    failures = 0;\n"
    return f"{_BENCH_HEADER}module decoder_tb;\n  integer vectors, failures;\n\n{declared}\n{start}{checks}{_BENCH_END}"


def save_verilog(packed: PackedModel, path: Path) -> tuple[Path, Path]:
    """Write the modules, and their bench next to them.

    Args:
        packed: the model whose codes are written.
        path: of the modules, such as decoder.v; the bench is then decoder_tb.v.

    Returns:
        The paths of modules and bench.

    Raises:
        UsageError: the model has no quantized layer.
        RunError: the folder cannot be written.
    """
    modules, bench = code_modules(packed), test_bench(packed)
    bench_path = _bench_path(path)
    write_atomically(path, modules.encode("ascii"))
    write_atomically(bench_path, bench.encode("ascii"))
    return path, bench_path


_MOST_SECONDS = 600


def simulate(path: Path) -> Checks:
    """Run the bench of a decoder file in Icarus Verilog.

    Args:
        path: of the modules, as `save_verilog` wrote them; the bench lies next to it.

    Returns:
        What was checked.

    Raises:
        UsageError: iverilog is not installed.
        FormatError: one of the two files is not there, or iverilog does not take them.
        VerificationError: an output differs.
    """
    checks, bench = Checks(), _bench_path(path)
    for part in (path, bench):
        if not part.is_file():
            raise FormatError(f"{part}: cannot be read: no such file; decoders and their bench belong together")
    if shutil.which("iverilog") is None:
        raise UsageError("verify: Verilog needs Debian's iverilog, which is not installed; docs/hardware.md says more")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "bench")
        compiled = _run("iverilog", "-g2012", "-s", "decoder_tb", "-o", program, str(path), str(bench))
        if compiled.returncode:
            raise FormatError(f"{path}: iverilog refuses it: {compiled.stderr.strip().splitlines()[-1:]}")
        done = _run("vvp", "-n", program)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    checks.add(not done.returncode and last.startswith("PASS"), f"bench in Icarus Verilog: {last}")
    return checks


def _bench_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_tb.v")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(
            f"verify: {command[0]} took longer than {_MOST_SECONDS} s and was ended; docs/hardware.md has the commands "
            "to run it without a limit"
        ) from error


def _tree(taps: tuple[int, ...]) -> str:
    """XOR of stored bits; the left part is the largest full tree, so that the depth is the least possible."""
    if len(taps) == 1:
        return f"x[{taps[0]}]"
    left = 1 << ((len(taps) - 1).bit_length() - 1)
    sides = (taps[:left], taps[left:])
    return " ^ ".join(f"({_tree(side)})" if len(side) > 1 else _tree(side) for side in sides)


def _uses(packed: PackedModel) -> list[_Use]:
    """Codes are the same where their taps are; the family that drew them does not matter."""
    uses: dict[tuple[int, tuple[tuple[int, ...], ...]], _Use] = {}
    for layer in packed.layers:
        for plane, (code, stored) in enumerate(zip(layer.codes, layer.planes, strict=True)):
            module = f"xor_decoder_{len(uses)}_{code.n_in}x{code.n_out}"
            use = uses.setdefault((code.n_in, code.taps), _Use(code, module))
            use.users.append(f"layer {_comment_text(layer.name)}, plane {plane}")
            use.stored.append(unpack_planes(stored, -(-layer.n_weights // code.n_out)))
    if not uses:
        raise UsageError(
            "to: the model must have a quantized layer to have a decoder, and it has none: all its layers are kept; "
            "export it as .safetensors, or choose a smaller budget"
        )
    return list(uses.values())


def _comment_text(name: str) -> str:
    """A name from a file nobody vouches for, as printable ASCII on one line that ends no comment of either kind."""
    return ascii(name).replace("*/", r"*\x2f").replace("/*", r"\x2f*")


def _bench_of_code(number: int, use: _Use) -> str:
    n_in, n_out = use.code.n_in, use.code.n_out
    return f"""\
  reg [{n_in - 1}:0] x_{number};
  wire [{n_out - 1}:0] y_{number};
  {use.module} decoder_{number} (.x(x_{number}), .y(y_{number}));
  task check_{number};
    input [{n_in - 1}:0] stored;
    input [{n_out - 1}:0] expected;
    begin
      x_{number} = stored;
      #1 vectors = vectors + 1;
      if (y_{number} !== expected) begin
        if (failures == 0)
          $display("FAIL {use.module}: x = %h gives y = %h, expected %h", stored, y_{number}, expected);
        failures = failures + 1;
      end
    end
  endtask
"""


def _vectors(use: _Use) -> Iterator[tuple[int, int]]:
    """Pairs of stored and decoded bits, bit j of a number being that of index j."""
    n_in, n_out = use.code.n_in, use.code.n_out
    payload = np.concatenate(use.stored, axis=1)
    n_slices = payload.shape[1]
    chosen = np.linspace(0, n_slices - 1, min(n_slices, PAYLOAD_VECTORS_PER_CODE)).round().astype(int)
    edges = (np.zeros((n_in, 1), np.uint8), np.ones((n_in, 1), np.uint8), np.eye(n_in, dtype=np.uint8))
    stored = np.concatenate([*edges, payload[:, chosen]], axis=1)
    decoded = decode_reference(use.code, stored, n_out * stored.shape[1]).reshape(n_out, -1)
    return zip(_numbers(stored), _numbers(decoded), strict=True)


def _numbers(bits: NDArray[np.uint8]) -> list[int]:
    """Each column as a number; row j is its bit j."""
    return [int.from_bytes(column.tobytes(), "little") for column in np.packbits(bits.T, axis=1, bitorder="little")]
