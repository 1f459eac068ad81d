"""Files whose hash is right and whose tables lie: each gives a FormatError, at once and in little memory."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexor_search.errors import FlexorError, FormatError, ModelError, UsageError
from flexor_search.packing import from_bytes, load, load_packed, pack, to_bytes, unpack_into, verify_file
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_

from .models import Counted, digits_case
from .rewriting import HASH, MARK, metadata_of, rewritten, signed

CASE = digits_case()
RAW = to_bytes(pack(CASE.model, CASE.allocation), CASE.allocation)


def table(name, value, *path):
    """Set metadata[name][path[0]]...[path[-1]] to a value."""

    def edit(metadata, tensors):
        where = metadata
        for step in (name, *path)[:-1]:
            where = where[step]
        where[(name, *path)[-1]] = value

    return edit


def tensor(name, change):
    def edit(metadata, tensors):
        tensors[name] = change(tensors[name])

    return edit


def item(name, index, value):
    def edit(metadata, tensors):
        tensors[name][index] = value

    return edit


def together(*edits):
    def edit(metadata, tensors):
        for one in edits:
            one(metadata, tensors)

    return edit


def without(name):
    return lambda metadata, tensors: tensors.pop(name)


def append(name, entry):
    return lambda metadata, tensors: metadata[name].append(entry)


def forget(name):
    return lambda metadata, tensors: metadata.pop(name)


WRONG_SIZE = "too short for the tables|longer than the tables say|padding bits"  # whatever is noticed first

LIES = {
    "version 0": (table("version", 0), "version 0, which never existed"),
    "version -1": (table("version", -1), "never existed"),
    "version 3": (table("version", 3), "format version 3, this program reads up to 2; update"),
    "version 10**30": (table("version", 10**30), "update flexor-search"),
    "version true": (table("version", True), "'version' is wrong"),
    "version 1.0": (table("version", 1.0), "'version' is wrong"),
    "version as text": (table("version", "1"), "'version' is wrong"),
    "no model": (forget("model"), "'model' is wrong"),
    "no exact": (forget("exact"), "'exact' is wrong"),
    "a field too many": (table("licence", "MIT"), "'licence' is wrong"),
    "layers as text": (table("layers", "abc"), "'layers' is wrong"),
    "layer as text": (table("layers", "abc", 0), "'layers.0' is wrong"),
    "a field of version 1": (table("folded", []), "'folded' is wrong"),
    "version 1 with tables of version 2": (table("version", 1), "'folded' is wrong"),
    "code as one number": (table("codes", [6], 0), "tables are malformed"),
    "code with float": (table("codes", [6.5, 8], 0), "'codes.0.0' is wrong"),
    "no inputs": (table("codes", [0, 8], 0), "outside 1 <= n_in"),
    "negative inputs": (table("codes", [-6, 8], 0), "outside 1 <= n_in"),
    "more inputs than outputs": (table("codes", [9, 8], 0), "outside 1 <= n_in"),
    "257 outputs": (table("codes", [6, 257], 0), "outside 1 <= n_in"),
    "10**18 outputs": (table("codes", [6, 10**18], 0), "outside 1 <= n_in"),
    "one output more": (table("codes", [6, 9], 0), WRONG_SIZE),
    "fewer codes": (table("codes", []), "by what is no index"),
    "a code too many": (append("codes", [6, 8]), "'codes' is too short"),
    "tap past the inputs": (item("codes", 0, 0x41), "tap past its inputs"),
    "a row without taps": (item("codes", 0, 0), "does not describe.*row 0 is empty"),
    "codes too long": (tensor("codes", lambda t: np.append(t, t[:1])), "'codes' is longer"),
    "codes missing": (without("codes"), "'codes' is too short"),
    "codes as floats": (tensor("codes", lambda t: t.astype(np.float32)), "must be of uint8, got float32"),
    "layer shape larger": (table("layers", [8, 1, 3, 3], 0, 1), WRONG_SIZE),
    "layer shape smaller": (table("layers", [2, 1, 3, 3], 0, 1), WRONG_SIZE),
    "layer shape huge": (table("layers", [2**40, 2**40], 0, 1), "too many axes or elements"),
    "layer shape large": (table("layers", [2**30, 2**20], 0, 1), "'payload' is too short"),
    "layer shape beyond all": (table("layers", [10**300, 10**300], 0, 1), "too many axes or elements"),
    "layer shape negative": (table("layers", [-4, -1, 3, 3], 0, 1), "must be a list of sizes"),
    "layer shape with zero": (table("layers", [0, 1, 3, 3], 0, 1), "malformed"),
    "layer shape of floats": (table("layers", [4.0, 1, 3, 3], 0, 1), "must be a list of sizes"),
    "layer shape of booleans": (table("layers", [True, 1], 0, 1), "must be a list of sizes"),
    "layer shape flat": (table("layers", [36], 0, 1), "malformed"),
    "layer shape of 70 axes": (table("layers", [4, 1, 3, 3] + [1] * 66, 0, 1), "too many axes"),
    "layer shape null": (table("layers", None, 0, 1), "must be a list of sizes"),
    "layer name null": (table("layers", None, 0, 0), "malformed"),
    "layer twice": (table("layers", "3", 0, 0), "occurs twice"),
    "layer without planes": (table("layers", [], 0, 2), WRONG_SIZE),
    "layer planes as object": (table("layers", {"0": 0}, 0, 2), "malformed"),
    "layer planes as text": (table("layers", "00", 0, 2), "malformed"),
    "negative code": (table("layers", [-1, -1], 0, 2), "by what is no index"),
    "true code": (table("layers", [True, 1], 0, 2), "malformed"),
    "float code": (table("layers", [0.0, 1.0], 0, 2), "malformed"),
    "code past the table": (table("layers", [0, 99], 0, 2), "by what is no index"),
    "a plane too few": (table("layers", [0], 0, 2), WRONG_SIZE),
    "a million planes": (table("layers", [0] * 1_000_000, 0, 2), WRONG_SIZE),
    "layer of two parts": (table("layers", ["0", [4, 1, 3, 3]], 0), "malformed"),
    "layer of six parts": (table("layers", ["0", [4, 1, 3, 3], [0, 1], "1", 0, 0], 0), "malformed"),
    "groups negative": (table("layers", -2, 2, 4), "groups do not divide"),
    "groups that do not divide": (table("layers", 4, 2, 4), "groups do not divide"),
    "groups huge": (table("layers", 10**40, 2, 4), "groups do not divide"),
    "groups as text": (table("layers", "2", 2, 4), "malformed"),
    "groups infinite": (table("layers", float("inf"), 2, 4), "not a packed file"),
    "groups left out": (table("layers", ["6", [6, 2, 2, 2], [0, 1], 1], 2), WRONG_SIZE),
    "bias 2": (table("layers", 2, 1, 3), "malformed"),
    "bias -1": (table("layers", -1, 1, 3), "malformed"),
    "bias true": (table("layers", True, 1, 3), "malformed"),
    "bias null": (table("layers", None, 1, 3), "malformed"),
    "bias with no name": (table("layers", "", 1, 3), "malformed"),
    "no bias": (table("layers", 0, 1, 3), "'kept' is longer"),
    "a norm folded twice": (table("layers", "1", 1, 3), "occurs twice"),
    "a kept layer with planes": (table("layers", [0], 3, 2), WRONG_SIZE),
    "a layer too few": (lambda metadata, tensors: metadata["layers"].pop(), "'kept' is longer"),
    "payload too long": (tensor("payload", lambda t: np.append(t, t[:1])), "'payload' is longer"),
    "payload too short": (tensor("payload", lambda t: t[:-1]), "'payload' is too short"),
    "payload missing": (without("payload"), "'payload' is too short"),
    "payload of two axes": (tensor("payload", lambda t: t.reshape(1, -1)), "one-dimensional"),
    "payload padding set": (item("payload", 0, 0xFF), "padding bits"),
    "scales too long": (tensor("scales", lambda t: np.append(t, t[:1])), "'scales' is longer"),
    "scale NaN": (item("scales", 3, np.nan), "'scales' holds a value that is not finite"),
    "scale infinite": (item("scales", -1, np.inf), "not finite"),
    "kept NaN": (item("kept", 0, np.nan), "'kept' holds a value that is not finite"),
    "scales of another dtype": (tensor("scales", lambda t: t.astype(np.float32)), "share one dtype"),
    "scales as float64": (tensor("scales", lambda t: t.astype(np.float64)), "not a valid safetensors container"),
    "both as bytes": (
        together(tensor("scales", lambda t: t.view(np.uint8)), tensor("kept", lambda t: t.view(np.uint8))),
        "float16 or float32, got",
    ),
    "an unknown tensor": (
        lambda metadata, tensors: tensors.update(extra=np.zeros(3, np.uint8)),
        "unknown tensors: 'extra'",
    ),
    "kept shape huge": (table("kept", [10**18], 0, 1), "'kept' is too short"),
    "kept shape empty but huge": (table("kept", [0, 10**30], 0, 1), "too many axes or elements"),
    "kept shape of 99 axes": (table("kept", [4] + [1] * 99, 0, 1), "too many axes"),
    "kept shape smaller": (table("kept", [1], 0, 1), "'kept' is longer"),
    "kept without shape": (table("kept", ["5.weight"], 0), "malformed"),
    "kept twice": (table("kept", "5.bias", 0, 0), "occurs twice"),
    "kept as a layer's weight": (table("kept", "3.weight", 0, 0), "occurs twice"),
    "kept by number": (table("kept", 7, 0, 0), "not a string"),
    "kept by list": (table("kept", [], 0, 0), "not a string"),
    "exact as kept": (table("exact", "0.bias", 0, 0), "occurs twice"),
    "exact in float": (table("exact", "float32", 0, 2), "not stored exactly"),
    "exact in bfloat16": (table("exact", "bfloat16", 0, 2), "not stored exactly"),
    "exact in object": (table("exact", "object", 0, 2), "not stored exactly"),
    "exact in null": (table("exact", None, 0, 2), "not stored exactly"),
    "exact in list": (table("exact", [], 0, 2), "not stored exactly"),
    "exact shape huge": (table("exact", [10**18], 0, 1), "'exact' is too short"),
    "exact missing": (without("exact"), "'exact' is too short"),
    "name of half a surrogate pair": (table("kept", "\ud800", 0, 0), "not a packed file"),
    "model of half a surrogate pair": (table("model", "\udfff"), "not a packed file"),
    "scales that overflow": (
        lambda metadata, tensors: tensors.update(
            scales=np.full(len(tensors["scales"]), 3e38, np.float32), kept=tensors["kept"].astype(np.float32)
        ),
        "scales add up to more than float32 holds",
    ),
    "an empty tensor": (
        together(table("exact", []), lambda metadata, tensors: tensors.update(exact=np.zeros(0, np.uint8))),
        "without elements must be left out",
    ),
    "shape of 33 axes": (table("kept", [4] + [1] * 32, 0, 1), "too many axes"),
    "code of four numbers": (table("codes", [6, 8, 0, 0], 0), "should be n_in, n_out and 0 or 1"),
    "code listed twice over": (table("codes", [6, 8, 2], 0), "should be n_in, n_out and 0 or 1"),
    "bits as lists": (table("codes", [6, 8, 1], 0), "'codes' is too short|does not describe"),
    "kept of three parts": (table("kept", ["5.weight", [6], "float16"], 0), "should have 2 parts"),
    "exact of two parts": (table("exact", ["5.num_batches_tracked", []], 0), "should have 3 parts"),
    "exact in less": (table("exact", "int32", 0, 2), "'exact' is longer"),
}


def listed_case():
    """A model whose one code takes fewer bytes as lists: 17 identity rows, two bytes each."""
    plain = torch.nn.Linear(17, 4)
    allocation = Allocation.of(describe(plain), {}, default=LayerSpec(n_in=17, n_out=17))
    return to_bytes(pack(quantize_(plain, allocation), allocation), allocation)


LISTED_LIES = {
    "a tap past the inputs": (item("codes", 1, 17), "must hold ascending distinct indices"),
    "taps out of order": (
        tensor("codes", lambda t: np.concatenate([[1, 5, 2], t[2:]]).astype(np.uint8)),
        "must hold ascending distinct indices",
    ),
    "a tap twice": (
        tensor("codes", lambda t: np.concatenate([[1, 5, 5], t[2:]]).astype(np.uint8)),
        "must hold ascending distinct indices",
    ),
    "more taps than bytes": (item("codes", -2, 255), "'codes' is too short"),
    "a row too many": (tensor("codes", lambda t: np.append(t, [0, 0]).astype(np.uint8)), "'codes' is longer"),
    "lists as bits": (table("codes", [17, 17], 0), "'codes' is too short"),
    "listed true": (table("codes", [17, 17, True], 0), "'codes.0.2' is wrong"),
    "lists in version 1": (
        together(
            table("version", 1),
            table("layers", [["", [4, 17], [0]]]),
            table("kept", [["bias", [4]]]),
            table("folded", []),
        ),
        "should be n_in, n_out and 0 or 1",
    ),
}


@pytest.mark.parametrize("lie", LISTED_LIES)
def test_a_lie_about_a_listed_code_is_refused(lie):
    raw = listed_case()
    assert metadata_of(raw)["codes"] == [[17, 17, 1]]
    edit, message = LISTED_LIES[lie]
    with pytest.raises(FormatError, match=f"(?s){message}"):
        from_bytes(rewritten(raw, edit))


def test_rewriting_without_a_lie_is_the_file_itself():
    assert rewritten(RAW, lambda metadata, tensors: None) == RAW
    assert set(metadata_of(RAW)) == {"version", "sha256", "model", "codes", "layers", "kept", "exact"}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie, tmp_path):
    edit, message = LIES[lie]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(rewritten(RAW, edit))
    with pytest.raises(FormatError, match=f"(?s)lie.safetensors: .*({message})"):
        load(path)
    with pytest.raises(FormatError):
        verify_file(path)


@pytest.mark.parametrize("lie", [lie for lie in LIES if "huge" in lie or "10**" in lie or "beyond" in lie])
def test_a_lie_about_counts_costs_no_memory(lie):
    raw = rewritten(RAW, LIES[lie][0])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            from_bytes(raw)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_key_that_occurs_twice_is_refused_wherever_it_is():
    """Parsers differ in which of two they take, so a file could be two files."""
    length = int.from_bytes(RAW[:8], "little")
    text = RAW[8 : 8 + length].rstrip().decode()
    for key in ('"payload":{', '\\"model\\":'):
        value = text[text.index(key) :]
        value = value[: value.index("}" if "payload" in key else ",") + 1].rstrip(",")
        double = text.replace(key, f"{value},{key}", 1).encode()
        double += b" " * (-len(double) % 8)
        with pytest.raises(FormatError, match="occurs twice"):
            from_bytes(signed(len(double).to_bytes(8, "little") + double + RAW[8 + length :]))


def with_header(edit, raw=RAW):
    """The file with edit(header) done to the container's header, or with the text that it returns instead."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    text = edit(header) or json.dumps(header, separators=(",", ":"))
    text = text.encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + raw[8 + length :]
    return signed(whole) if MARK in whole else whole


def entry(name, **changes):
    return lambda header: header[name].update(changes)


def spelled(old, new):
    def edit(header):
        text = json.dumps(header, separators=(",", ":"))
        assert old in text
        return text.replace(old, new, 1)

    return edit


HEADER = json.loads(RAW[8 : 8 + int.from_bytes(RAW[:8], "little")])
NO_CONTAINER, NO_FILE = "not a valid safetensors container", "not a packed file"
CONTAINER_LIES = {
    "past the end": (entry("payload", data_offsets=[0, 10**9]), NO_CONTAINER),
    "the same bytes twice": (entry("codes", data_offsets=HEADER["payload"]["data_offsets"]), NO_CONTAINER),
    "an overlap of one byte": (
        entry("codes", data_offsets=[place - 1 for place in HEADER["codes"]["data_offsets"]]),
        NO_CONTAINER,
    ),
    "backwards": (entry("codes", data_offsets=HEADER["codes"]["data_offsets"][::-1]), NO_CONTAINER),
    "negative offsets": (entry("kept", data_offsets=[-8, 0]), NO_CONTAINER),
    "offsets of floats": (entry("kept", data_offsets=[0.0, 8.0]), NO_CONTAINER),
    "offsets that wrap around": (entry("kept", data_offsets=[2**64 - 8, 2**64]), NO_CONTAINER),
    "an unknown dtype": (entry("kept", dtype="F99"), NO_CONTAINER),
    "a shape that is too large": (entry("scales", shape=[10**9]), NO_CONTAINER),
    "a shape whose size wraps around": (entry("scales", shape=[2**63, 2]), NO_CONTAINER),
    "a key too many": (entry("scales", strides=[1]), NO_CONTAINER),
    "an entry as a list": (lambda header: header.update(kept=list(header["kept"].values())), NO_CONTAINER),
    "an entry as text": (lambda header: header.update(kept="U8"), NO_CONTAINER),
    "a tensor with a path for a name": (
        lambda header: header.update({"../../kept": header.pop("kept")}),
        "unknown tensors: '../../kept'",
    ),
    "more metadata": (lambda header: header["__metadata__"].update(format="pt"), "'flexor' and nothing else"),
    "metadata as a list": (lambda header: header.update(__metadata__=[]), NO_FILE),
    "the same tensor twice": (spelled('"payload":', '"codes":{},"payload":'), "occurs twice"),
    "the same tensor twice, spelled differently": (
        spelled('"payload":', '"\\u0063odes":{},"payload":'),
        "occurs twice",
    ),
    "a space before it": (lambda header: " " + json.dumps(header), NO_FILE),
    "a byte order mark before it": (lambda header: "\ufeff" + json.dumps(header), NO_FILE),
    "UTF-16": (lambda header: json.dumps(header).encode("utf-16-le").decode("latin-1"), NO_FILE),
    "half of a surrogate pair": (lambda header: json.dumps(header | {"\ud800": header["kept"]}), NO_FILE),
    "half of a surrogate pair in bytes": (
        lambda header: json.dumps(header | {"\ud800": header["kept"]}, ensure_ascii=False),
        NO_FILE,
    ),
    "minus zero": (spelled('"data_offsets":[0,', '"data_offsets":[-0,'), NO_FILE),
    "NaN in the metadata": (spelled('\\"version\\":2', '\\"version\\":NaN'), NO_FILE),
    "minus zero in the metadata": (spelled("[[6,8]", "[[-0,8]"), NO_FILE),
    "the hash spelled otherwise": (spelled('\\"sha256\\":', '\\"sha256\\": '), "SHA-256 does not match"),
    "a hash in front of the hash": (
        lambda header: json.dumps({f'"sha256":"{HASH}': header["kept"], **header}, separators=(",", ":")),
        "SHA-256 does not match",
    ),
}


@pytest.mark.parametrize("lie", CONTAINER_LIES)
def test_the_containers_own_table_may_not_lie_either(lie):
    """What the safetensors library checks, and what it lets pass: another reader may take it otherwise."""
    edit, message = CONTAINER_LIES[lie]
    with pytest.raises(FormatError, match=message):
        from_bytes(with_header(edit))


def test_bytes_that_no_tensor_owns_are_refused():
    for more in (b"\x00", bytes(8), RAW):
        with pytest.raises(FormatError, match=NO_CONTAINER):
            from_bytes(signed(RAW + more))


def test_where_no_hash_is_the_start_of_the_file_is_none():
    """A search that fails gives -1, and -1 plus the mark's length is a place in the file."""

    def edit(header):
        text = header["__metadata__"]["flexor"].replace('"sha256":', '"sha256": ')
        header["__metadata__"]["flexor"] = text.replace(text[text.index(': "') + 3 :][:64], HASH)
        return json.dumps({HASH: header["kept"], **header}, separators=(",", ":"))

    with pytest.raises(FormatError, match="SHA-256 does not match"):
        from_bytes(with_header(edit))


@pytest.mark.parametrize("depth", [100, 900, *range(950, 1000, 3), 3000])
def test_what_is_nested_deeply_is_refused_in_few_words(depth):
    for place in (["layers", 0, 1], ["layers", 0], ["kept", 0, 0], ["exact", 0, 2], ["model"]):
        marked = rewritten(RAW, table(place[0], "DEEP", *place[1:]))
        nested = with_header(spelled('\\"DEEP\\"', "[" * depth + "]" * depth), marked)
        with pytest.raises(FormatError) as caught:
            from_bytes(nested)
        assert len(str(caught.value)) < 600


MANY = 30_000
LARGE_LIES = {
    "codes that are none": table("codes", [0] * MANY),
    "codes of text": table("codes", [["a"]] * MANY),
    "codes of one output": table("codes", [[1, 1]] * MANY),
    "layers without parts": table("layers", [[]] * MANY),
    "objects for sizes": table("layers", [{}] * MANY, 0),
    "fields": lambda metadata, tensors: metadata.update({f"k{number}": 0 for number in range(MANY)}),
    "layers by number": table("layers", [[0, [1, 1], []]] * MANY),
    "a shape of many axes": table("kept", [9] * MANY, 0, 1),
    "names that are no strings": table("kept", [[[], []]] * MANY),
    "one name many times": table("exact", [["x", [0], "bool"]] * MANY),
    "many planes": table("layers", [0] * MANY, 0, 2),
    "text in folded": together(table("version", 1), table("folded", [0] * MANY)),
}


@pytest.mark.parametrize("lie", LARGE_LIES)
def test_large_lies_take_memory_in_proportion(lie):
    """A million wrong entries are one error: docs/format.md promises 64 times the file and 1 MB."""
    raw = rewritten(RAW, LARGE_LIES[lie])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            from_bytes(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 * len(raw) + 1_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


NAMES = (
    "../../x",
    "/etc/passwd",
    "__class__",
    "0.__class__",
    "weight.__init__",
    "__dict__",
    "0.forward",
    ".0",
    "0.",
    "",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "path", [("layers", 0, 0), ("layers", 1, 3), ("layers", 3, 0), ("kept", 0, 0), ("exact", 0, 0)]
)
def test_a_name_is_no_path_and_no_code(name, path, tmp_path, monkeypatch):
    """Such a file may be read, names being names; it fits no model, and neither the model nor a folder changes."""
    monkeypatch.chdir(tmp_path)
    path_in, model = tmp_path / "in" / "model.safetensors", CASE.build()
    path_in.parent.mkdir()
    path_in.write_bytes(rewritten(RAW, table(path[0], name, *path[1:])))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = [(key, type(module), dict(vars(type(module)))) for key, module in model.named_modules()]
    with pytest.raises(FlexorError):
        load_packed(path_in, model)
    assert [(key, type(module), dict(vars(type(module)))) for key, module in model.named_modules()] == kinds
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert [found.name for found in tmp_path.rglob("*")] == ["in", "model.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_workload_is_looked_up_and_nothing_else(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(rewritten(RAW, table("model", name)))
    with pytest.raises(UsageError, match="no built-in workload"):
        load_packed(path)


def test_a_tensor_of_another_dtype_does_not_fit_the_model():
    """Copying would convert it without a word."""
    model = nn.Sequential(nn.Linear(2, 2), Counted(2))
    allocation = Allocation.of(describe(model), {"0": KEPT}, "float16")
    raw = to_bytes(pack(quantize_(model, allocation), allocation), allocation)
    index = [entry[0] for entry in metadata_of(raw)["exact"]].index("1.mask")
    unpack_into(from_bytes(raw), nn.Sequential(nn.Linear(2, 2), Counted(2)))
    for dtype in ("uint8", "int8"):
        lying = from_bytes(rewritten(raw, table("exact", dtype, index, 2)))
        with pytest.raises(ModelError, match=r"what differs: 1\.mask"):
            unpack_into(lying, nn.Sequential(nn.Linear(2, 2), Counted(2)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@st.composite
def table_lies(draw):
    """Any value anywhere in the tables."""
    metadata = metadata_of(RAW)
    name = draw(st.sampled_from(["codes", "layers", "kept", "exact", "model"]))
    path, where = [], metadata[name]
    while isinstance(where, list) and where and draw(st.integers(0, 3)):
        path.append(draw(st.integers(0, len(where) - 1)))
        where = where[path[-1]]
    return table(name, draw(json_values), *path)


@settings(max_examples=300)
@given(table_lies(), st.none() | st.tuples(st.sampled_from(["codes", "payload"]), st.integers(0), st.integers(0, 255)))
def test_any_lie_ends_in_an_error_of_ours_or_in_a_usable_model(edit, byte):
    """What gets past the reader decodes, and loading it into a model fits or says that it does not."""

    def lie(metadata, tensors):
        edit(metadata, tensors)
        if byte:
            name, place, value = byte
            tensors[name][place % len(tensors[name])] = value

    try:
        packed = from_bytes(rewritten(RAW, lie))
        for layer in packed.layers:
            assert np.array_equal(layer.weight_bits("reference"), layer.weight_bits("fast"))
        unpack_into(packed, CASE.build())
    except FlexorError:
        pass  # any other exception is a failure
