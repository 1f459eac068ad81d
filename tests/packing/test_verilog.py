"""The exported hardware decodes what the reference decodes; its own bench passes, and fails where a gate is wrong."""

import json
import re
import shutil
import string
import subprocess
from collections import Counter

import numpy as np
import pytest
from codes.strategies import bits, codes, rngs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexor_search.codes import XorCode, decode_reference, make_code, pack_planes, unpack_planes
from flexor_search.errors import FormatError, RunError, UsageError, VerificationError
from flexor_search.packing import PackedLayer, PackedModel, pack, save_verilog, simulate, verilog_file

from .models import digits_case

HOSTILE = (
    'a\nendmodule\n`include "x.v"',
    "a\r`undef x",
    "*/ module evil; endmodule /*",
    "ends with \\",
    "*\\/",
    "synopsys translate_off",
    "schicht-ä\u2028\u0085`define x",
    "\ud800\x00\x7f\x1b[2J",
    "%s $finish",
    "",
)
IVERILOG = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs Debian's iverilog")
YOSYS = pytest.mark.skipif(shutil.which("yosys") is None, reason="needs Debian's yosys")


def made(code_list, rng, names=None, n_planes=1):
    """A packed model of one layer for each code, with random payload."""
    layers = []
    for index, code in enumerate(code_list):
        n_weights = int(rng.integers(1, 9 * code.n_out))
        n_slices = -(-n_weights // code.n_out)
        planes = tuple(pack_planes(bits(rng, code.n_in, n_slices)) for _ in range(n_planes))
        name = names[index] if names else f"layer{index}"
        layers.append(
            PackedLayer(name, (n_weights, 1), (code,) * n_planes, planes, np.ones((n_planes, n_weights), "f2"))
        )
    return PackedModel(tuple(layers), {}, {}, (), "", "float16")


def distinct(packed):
    """The distinct codes in order of first use, found another way."""
    every = [code for layer in packed.layers for code in layer.codes]
    return [code for i, code in enumerate(every) if all(code.taps != c.taps or code.n_in != c.n_in for c in every[:i])]


def simulated(folder, *files, top):
    """Compile without a warning and run; the exit code and what was printed."""
    program = folder / f"{top}.vvp"
    compiled = ["iverilog", "-g2012", "-Wall", "-s", top, "-o", str(program), *map(str, files)]
    done = subprocess.run(compiled, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, strip_timescale(done.stderr)) == (0, ""), done.stderr
    done = subprocess.run(["vvp", "-n", str(program)], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def strip_timescale(messages):
    """iverilog notes that nothing sets a time scale; nothing here has a delay in seconds."""
    return "\n".join(line for line in messages.splitlines() if "timescale" not in line)


def outputs_of(folder, modules, inputs):
    """What the simulator prints for stored bits (n_in, n) of each module: bits (n_out, n), by a bench of our own."""
    lines, declared = [], []
    for number, (code, module, stored) in enumerate(inputs):
        declared.append(f"reg [{code.n_in - 1}:0] x{number}; wire [{code.n_out - 1}:0] y{number};")
        declared.append(f"{module} d{number}(x{number}, y{number});")
        for column in stored.T:
            word = "".join(map(str, column[::-1]))
            lines.append(f'x{number} = {code.n_in}\'b{word}; #1 $display("%b", y{number});')
    driver = folder / "driver.v"
    driver.write_text("\n".join(["module driver;", *declared, "initial begin", *lines, "end", "endmodule"]))
    code, printed = simulated(folder, modules, driver, top="driver")
    assert code == 0
    words = iter(printed.split())
    return [
        np.array([[int(bit) for bit in next(words)[::-1]] for _ in range(stored.shape[1])], np.uint8).T
        for _, _, stored in inputs
    ]


def module_names(modules):
    return re.findall(r"^module (\w+)", modules.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def packed():
    case = digits_case()
    return pack(case.model, case.allocation)


@IVERILOG
@pytest.mark.hardware
@settings(max_examples=20)
@example([make_code("taps", 100, 256, n_tap=3)], np.random.default_rng(0))
@given(st.lists(codes(), min_size=1, max_size=8), rngs())
def test_every_simulated_bit_is_the_references(tmp_path_factory, code_list, rng):
    folder = tmp_path_factory.mktemp("verilog")
    packed = made(code_list, rng)
    modules, bench = save_verilog(packed, folder / "decoder.v")
    found, names = distinct(packed), module_names(modules)
    assert names == [f"xor_decoder_{i}_{code.n_in}x{code.n_out}" for i, code in enumerate(found)]
    inputs = [(code, name, bits(rng, code.n_in, 20)) for code, name in zip(found, names, strict=True)]
    for (code, _, stored), got in zip(inputs, outputs_of(folder, modules, inputs), strict=True):
        assert np.array_equal(got.reshape(-1), decode_reference(code, stored, 20 * code.n_out))
    code, printed = simulated(folder, modules, bench, top="decoder_tb")
    assert (code, re.fullmatch(r"PASS \d+ vectors\n", printed) is not None) == (0, True), printed


@IVERILOG
@pytest.mark.hardware
def test_the_hardware_decodes_every_weight_of_a_packed_model(tmp_path, packed):
    modules, _ = save_verilog(packed, tmp_path / "decoder.v")
    found, names = distinct(packed), module_names(modules)
    name_of = {code.taps: name for code, name in zip(found, names, strict=True)}
    planes = [
        (code, name_of[code.taps], unpack_planes(plane, -(-layer.n_weights // code.n_out)))
        for layer in packed.layers
        for code, plane in zip(layer.codes, layer.planes, strict=True)
    ]
    outputs = iter(outputs_of(tmp_path, modules, planes))
    for layer in packed.layers:
        got = np.stack([next(outputs).reshape(-1)[: layer.n_weights] for _ in layer.codes])
        assert np.array_equal(got, layer.weight_bits("fast"))


@IVERILOG
@pytest.mark.hardware
def test_the_bench_passes_and_counts_its_vectors(tmp_path, packed):
    modules, bench = save_verilog(packed, tmp_path / "decoder.v")
    wanted = 0
    for code in distinct(packed):
        used = [layer for layer in packed.layers for own in layer.codes if own.taps == code.taps]
        wanted += 2 + code.n_in + sum(-(-layer.n_weights // code.n_out) for layer in used)
    assert simulated(tmp_path, modules, bench, top="decoder_tb") == (0, f"PASS {wanted} vectors\n")


@IVERILOG
@pytest.mark.hardware
def test_the_modules_are_plain_verilog_2001(tmp_path, packed):
    modules, _ = save_verilog(packed, tmp_path / "decoder.v")
    compiled = ["iverilog", "-g2001", "-Wall", "-o", str(tmp_path / "out"), str(modules)]
    done = subprocess.run(compiled, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@IVERILOG
@pytest.mark.hardware
def test_the_bench_fails_for_any_row_with_one_tap_more_or_less(tmp_path, packed):
    modules, bench = save_verilog(packed, tmp_path / "decoder.v")
    text = modules.read_text()
    starts = [found.start() for found in re.finditer("^  assign", text, re.MULTILINE)]
    assert len(starts) == sum(code.n_out for code in distinct(packed))
    for number, start in enumerate(starts):
        end = text.index(";", start)
        modules.write_text(f"{text[:end]} ^ x[{number % 3}]{text[end:]}")  # removes the tap where there is one
        code, printed = simulated(tmp_path, modules, bench, top="decoder_tb")
        module = module_names(modules)[text.count("endmodule", 0, start)]
        assert code == 1
        assert re.match(rf"FAIL {module}: x = \w+ gives y = \w+, expected \w+\nFAIL \d+ of \d+ vectors\n", printed)
        assert "PASS" not in printed


@IVERILOG
@pytest.mark.hardware
def test_the_bench_fails_where_an_output_is_undriven(tmp_path, packed):
    modules, bench = save_verilog(packed, tmp_path / "decoder.v")
    modules.write_text(re.sub(r"  assign y\[1\].*\n", "", modules.read_text(), count=1))
    code, printed = simulated(tmp_path, modules, bench, top="decoder_tb")
    assert code == 1
    assert printed.startswith("FAIL xor_decoder_0_6x8: x = 00 gives y = ")


def test_a_big_payload_gives_evenly_spaced_vectors_and_no_more(tmp_path):
    code = XorCode(11, tuple((j,) for j in range(11)))
    counting = (np.arange(1000)[None, :] >> np.arange(11)[:, None] & 1).astype(np.uint8)
    layer = PackedLayer("a", (11000, 1), (code,), (pack_planes(counting),), np.ones((1, 11000), "f2"))
    bench = verilog_file.test_bench(PackedModel((layer,), {}, {}, (), "", "float16"))
    driven = [int(word, 16) for word in re.findall(r"check_0\(11'h(\w+),", bench)][2 + 11 :]
    assert len(driven) == verilog_file.PAYLOAD_VECTORS_PER_CODE
    assert (driven[0], driven[-1]) == (0, 999)
    assert set(np.diff(driven)) == {3, 4}


@given(st.lists(st.text() | st.sampled_from(HOSTILE), min_size=1, max_size=5), rngs())
def test_no_layer_name_leaves_its_comment(names, rng):
    code_list = [make_code("taps", 3, 5, seed=seed) for seed in range(len(names))]
    seed = int(rng.integers(2**32))
    harmless, named = (made(code_list, np.random.default_rng(seed), these) for these in (None, names))
    for write in (verilog_file.code_modules, verilog_file.test_bench):
        ours, theirs = write(named), write(harmless)
        assert set(ours) <= set(string.printable) - set("\t\r\v\f")
        assert without_comments(ours) == without_comments(theirs)
        assert not any("*/" in line or "/*" in line for line in ours.splitlines())


def without_comments(text):
    return [line for line in text.split("\n") if not line.startswith("//")]


@IVERILOG
@pytest.mark.hardware
def test_tools_read_files_with_hostile_names(tmp_path):
    rng = np.random.default_rng(0)
    every = made([make_code("random", 5, 9, seed=seed) for seed in range(len(HOSTILE))], rng, HOSTILE)
    modules, bench = save_verilog(every, tmp_path / "decoder.v")
    code, printed = simulated(tmp_path, modules, bench, top="decoder_tb")
    assert (code, printed[:5]) == (0, "PASS ")
    if shutil.which("yosys"):
        assert len(synthesized(tmp_path, modules)) == len(HOSTILE)


def synthesized(folder, modules):
    """Cells by type of each module, as yosys maps the file to gates without restructuring it."""
    netlist = folder / "netlist.json"
    script = f"read_verilog {modules}; synth -noabc; check -assert; write_json {netlist}"
    done = subprocess.run(["yosys", "-q", "-p", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(netlist.read_text())["modules"]
    return {name: Counter(cell["type"] for cell in module["cells"].values()) for name, module in found.items()}


@YOSYS
@pytest.mark.hardware
def test_synthesis_needs_xor_gates_only_and_at_most_one_for_each_tap_but_the_first(tmp_path, packed):
    rng = np.random.default_rng(0)
    families = ("systematic", "taps", "random")
    every = [make_code(family, n_in, 20, n_tap=3) for family in families for n_in in (1, 4, 13, 20)]
    for number, model in enumerate((packed, made(every, rng))):
        modules, _ = save_verilog(model, tmp_path / f"decoder{number}.v")
        cells = synthesized(tmp_path, modules)
        for code, name in zip(distinct(model), module_names(modules), strict=True):
            assert set(cells[name]) <= {"$_XOR_"}
            assert cells[name].total() <= sum(len(taps) - 1 for taps in set(code.taps))


@given(codes())
def test_the_gates_of_a_row_are_a_tree_of_least_depth(code):
    text = verilog_file.code_module(code, "decoder")
    for taps, expression in zip(code.taps, re.findall(r"assign y\[\d+\] = (.*);", text), strict=True):
        assert tuple(int(j) for j in re.findall(r"x\[(\d+)\]", expression)) == taps
        assert expression.count("^") == len(taps) - 1
        nested = max(np.cumsum([(sign == "(") - (sign == ")") for sign in expression]))
        assert nested + (len(taps) > 1) == (len(taps) - 1).bit_length()


def test_equal_taps_are_one_module_whatever_their_family(tmp_path):
    drawn = make_code("taps", 4, 6)
    given_by_user = XorCode(4, drawn.taps)
    names = ["conv", "fc"]
    modules, _ = save_verilog(made([drawn, given_by_user], np.random.default_rng(0), names, 2), tmp_path / "d.v")
    assert module_names(modules) == ["xor_decoder_0_4x6"]
    listed = re.findall(r"^//   (layer .*)$", modules.read_text(), re.MULTILINE)
    assert listed == [f"layer '{name}', plane {plane}" for name in names for plane in (0, 1)]


def test_the_same_model_gives_the_same_files_next_to_each_other_and_nothing_else(tmp_path, packed):
    paths = save_verilog(packed, tmp_path / "my.decoder.v")
    assert paths == (tmp_path / "my.decoder.v", tmp_path / "my.decoder_tb.v")
    before = [path.read_bytes() for path in paths]
    assert save_verilog(packed, paths[0]) == paths
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_model_without_quantized_layers_has_no_decoder(tmp_path):
    with pytest.raises(UsageError, match=r"must have a quantized layer .* it has none"):
        save_verilog(PackedModel((), {}, {}, (), "", "float16"), tmp_path / "decoder.v")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, packed):
    with pytest.raises(RunError, match="cannot write"):
        save_verilog(packed, tmp_path / "nowhere" / "decoder.v")


@pytest.mark.parametrize("name", ["", "1st", "a b", "a;endmodule", "ä", "a\n"])
def test_a_module_name_that_is_no_identifier(name):
    with pytest.raises(ValueError, match="name: must be letters"):
        verilog_file.code_module(XorCode(1, ((0,),)), name)


@IVERILOG
@pytest.mark.hardware
def test_simulating_tells_and_notices(tmp_path, packed):
    modules, bench = save_verilog(packed, tmp_path / "decoder.v")
    (told,) = simulate(modules).passed
    assert told.startswith("bench in Icarus Verilog: PASS ")
    text = modules.read_text()
    modules.write_text(text.replace("assign y[0] = x[0];", "assign y[0] = x[1];", 1))
    with pytest.raises(VerificationError, match="bench in Icarus Verilog: "):
        simulate(modules)
    modules.write_text("no module")
    with pytest.raises(FormatError, match=r"decoder\.v: iverilog refuses it"):
        simulate(modules)
    bench.unlink()
    with pytest.raises(FormatError, match=r"decoder_tb\.v: cannot be read: no such file"):
        simulate(modules)


def test_without_a_simulator_it_says_so(tmp_path, packed, monkeypatch):
    modules, _ = save_verilog(packed, tmp_path / "decoder.v")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="iverilog, which is not installed"):
        simulate(modules)


@IVERILOG
def test_a_simulation_that_takes_too_long_is_told(tmp_path, monkeypatch):
    save_verilog(made([make_code("systematic", 4, 10, seed=0)], np.random.default_rng(0)), tmp_path / "d.v")
    monkeypatch.setattr(verilog_file, "_MOST_SECONDS", 1e-6)
    with pytest.raises(VerificationError, match="iverilog took longer than 1e-06 s and was ended"):
        simulate(tmp_path / "d.v")
