"""Files whose hash is right and whose tables lie: each gives a FormatError, at once and in little memory."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search.errors import FlexorError, FormatError
from flexor_search.packing import from_bytes, load, pack, to_bytes, unpack_into, verify_file

from .models import digits_case
from .rewriting import metadata_of, rewritten, signed

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
    "layer shape huge": (table("layers", [2**40, 2**40], 0, 1), "'payload' is too short"),
    "layer shape beyond all": (table("layers", [10**300, 10**300], 0, 1), "'payload' is too short"),
    "layer shape negative": (table("layers", [-4, -1, 3, 3], 0, 1), "must be a list of sizes"),
    "layer shape with zero": (table("layers", [0, 1, 3, 3], 0, 1), "malformed"),
    "layer shape of floats": (table("layers", [4.0, 1, 3, 3], 0, 1), "must be a list of sizes"),
    "layer shape of booleans": (table("layers", [True, 1], 0, 1), "must be a list of sizes"),
    "layer shape flat": (table("layers", [36], 0, 1), "malformed"),
    "layer shape of 70 axes": (table("layers", [4, 1, 3, 3] + [1] * 66, 0, 1), "malformed"),
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
    "groups infinite": (table("layers", float("inf"), 2, 4), "malformed"),
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
        "unknown tensors: extra",
    ),
    "kept shape huge": (table("kept", [10**18], 0, 1), "'kept' is too short"),
    "kept shape empty but huge": (table("kept", [0, 10**30], 0, 1), "does not describe|longer"),
    "kept shape of 99 axes": (table("kept", [4] + [1] * 99, 0, 1), "does not describe"),
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
    "exact in less": (table("exact", "int32", 0, 2), "'exact' is longer"),
}


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


def test_the_containers_own_table_may_not_lie_either():
    """Offsets past the end, overlaps and unknown dtypes, which the safetensors library checks."""
    length = int.from_bytes(RAW[:8], "little")
    header = json.loads(RAW[8 : 8 + length])
    for name, changes in {
        "payload": {"data_offsets": [0, 10**9]},
        "codes": {"data_offsets": header["payload"]["data_offsets"]},
        "kept": {"dtype": "F99"},
        "scales": {"shape": [10**9]},
    }.items():
        lying = json.dumps(header | {name: header[name] | changes}, separators=(",", ":")).encode()
        lying += b" " * (-len(lying) % 8)
        with pytest.raises(FormatError, match="not a valid safetensors container"):
            from_bytes(signed(len(lying).to_bytes(8, "little") + lying + RAW[8 + length :]))


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
