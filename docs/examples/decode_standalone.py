"""Reads a packed FleXOR file with numpy and the standard library alone.

Written from docs/format.md, versions 1 and 2, and from nothing else. It imports nothing of flexor-search, so that a
file stays readable where the project is not, and so that two readers that share no line can be held against each other.

    python decode_standalone.py FILE [--npz OUT.npz]

prints the layers, and writes every tensor of the model under its name to OUT.npz. `read` does the same in Python. What
the page says a reader refuses is refused with `Refused`, whose message names the cause. Nothing of a size that the
tables claim is allocated before the file's own bytes vouch for it; only decoding makes more than the file holds, and by
no more than its codes say.
"""

import argparse
import hashlib
import json
import math
import re
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shown
from urllib.parse import quote

import numpy as np

NEWEST = 2
MAX_HEADER_BYTES, MAX_AXES, MAX_ELEMENTS = 100_000_000, 32, 2**60
MARKER = rb"\"sha256\":\""
KEYS = ("version", "sha256", "model", "codes", "layers", "kept", "exact")
TENSORS = {"codes": ("U8",), "exact": ("U8",), "kept": ("F16", "F32"), "payload": ("U8",), "scales": ("F16", "F32")}
DTYPES = {"U8": "<u1", "F16": "<f2", "F32": "<f4"}
EXACT = {"int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "<i1", "uint8": "<u1", "bool": "<u1"}


class Refused(ValueError):
    """The file is not one that docs/format.md lets a reader accept; the message says why."""


@dataclass
class Layer:
    """A quantizable layer; `bits` holds one array of weight's shape for each plane, none for a kept layer."""

    weight: np.ndarray
    bits: list[np.ndarray] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)
    bias: np.ndarray | None = None


@dataclass
class Packed:
    """A file's content; float tensors that are not decoded keep the dtype that they have in the file.

    Of a version 1 file the biases of layers are in `kept`, as that version has them.
    """

    version: int
    model: str
    layers: dict[str, Layer]
    kept: dict[str, np.ndarray]
    exact: dict[str, np.ndarray]
    folded: list[str]

    def tensors(self):
        """Every tensor of the model under the name that it has there."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[_inside(name, "weight")] = layer.weight
            if layer.bias is not None:
                tensors[_inside(name, "bias")] = layer.bias
        return tensors | self.kept | self.exact


@dataclass
class _Entry:
    """A layer as the metadata describe it."""

    name: str
    shape: list[int]
    planes: list[int]
    bias: bool = False
    folded: str | None = None
    groups: int = 0

    @property
    def channels(self):
        return self.groups * self.shape[1] if self.groups else self.shape[0]


def read(source):
    """The packed file at a path, or in bytes, as `Packed`; `Refused` where docs/format.md refuses it."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    tensors, text = _container(data)
    meta = _json(text, "the metadata")
    version = _version(meta)
    _check_hash(data, meta["sha256"])
    _need(_is_name(meta["model"]), "model is no string")
    layers, folded = _layers(meta, version)
    kept = [_row(row, 2, "kept") for row in _list(meta["kept"], "kept")]
    exact = [_row(row, 3, "exact") for row in _list(meta["exact"], "exact")]
    _check_names(layers, folded, kept, exact)

    codes = _Tensor("codes", tensors)
    matrices = [_code(row, codes, version) for row in _list(meta["codes"], "codes")]
    codes.finish()

    floats, payload, scales = _Tensor("kept", tensors), _Tensor("payload", tensors), _Tensor("scales", tensors)
    parts = [_parts(entry, matrices, floats, payload, scales, version) for entry in layers]
    kept = {name: floats.take(shape, name) for name, shape in kept}
    for tensor in (floats, payload, scales):
        tensor.finish()

    raw = _Tensor("exact", tensors)
    exact = {name: _exact(name, shape, dtype, raw) for name, shape, dtype in exact}
    raw.finish()
    # Only here does anything become larger than what the file holds, and it does by what its codes say and no more.
    layers = {entry.name: _decode(entry, *part) for entry, part in zip(layers, parts, strict=True)}
    return Packed(version, meta["model"], layers, kept, exact, folded)


def _container(data):
    """The tensors by name and the metadata's text."""
    _need(len(data) >= 8, f"the file has {len(data)} bytes, too few for the length of a header")
    start = 8 + int.from_bytes(data[:8], "little")
    _need(start <= len(data), f"the header says {start - 8} bytes, the file has {len(data) - 8} behind its length")
    _need(start - 8 <= MAX_HEADER_BYTES, f"a header of {start - 8} bytes is too long")
    _need(data[8:9] == b"{", "the header does not begin with {")
    header = _json(data[8:start], "the header")
    outer = header.pop("__metadata__", None)
    _need(isinstance(outer, dict) and outer.keys() == {"flexor"}, "__metadata__ is no object with the one key flexor")
    _need(isinstance(outer["flexor"], str), "the flexor metadata is no string")
    tensors, spans = {}, []
    for name, entry in header.items():
        _need(name in TENSORS, f"unknown tensor {shown(name)}")
        _need(isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}, f"{name}: odd entry")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        _need(isinstance(dtype, str) and dtype in TENSORS[name], f"{name}: dtype {shown(dtype)}")
        _need(_is_sizes(shape) and len(shape) == 1 and shape[0] > 0, f"{name}: shape {shown(shape)}")
        _need(_is_sizes(offsets) and len(offsets) == 2, f"{name}: data_offsets {shown(offsets)}")
        begin, end = offsets
        size = shape[0] * np.dtype(DTYPES[dtype]).itemsize
        _need(end - begin == size and start + end <= len(data), f"{name}: {begin} to {end} is not its {size} bytes")
        tensors[name] = np.frombuffer(data, DTYPES[dtype], shape[0], start + begin)
        spans.append((begin, end))
    place = 0
    for begin, end in sorted(spans):
        _need(begin == place, f"a gap or overlap at byte {min(begin, place)} of the data area")
        place = end
    _need(start + place == len(data), f"the tensors end at byte {place} of {len(data) - start} in the data area")
    if "kept" in tensors and "scales" in tensors:
        _need(tensors["kept"].dtype == tensors["scales"].dtype, "kept and scales differ in dtype")
    for name in ("kept", "scales"):
        if name in tensors:
            _need(bool(np.isfinite(tensors[name]).all()), f"{name} holds a value that is not finite")
    return tensors, outer["flexor"]


def _version(meta):
    version = meta.get("version")
    _need(type(version) is int and version >= 1, f"version is {shown(version)}")
    _need(
        version <= NEWEST, f"version {shown(version)} is newer than this reader, which knows up to {NEWEST}: update it"
    )
    keys = set(KEYS) | ({"folded"} if version == 1 else set())
    _need(meta.keys() == keys, f"metadata keys {shown(sorted(meta.keys() ^ keys))} missing or unknown")
    return version


def _check_hash(data, claimed):
    _need(isinstance(claimed, str) and re.fullmatch("[0-9a-f]{64}", claimed), "sha256 is no 64 lower-case hex digits")
    at = data.find(MARKER) + len(MARKER)
    _need(at >= len(MARKER) and data[at : at + 64] == claimed.encode(), "sha256 is not where the format puts it")
    digest = hashlib.sha256(memoryview(data)[:at])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[at + 64 :])
    _need(digest.hexdigest() == claimed, "sha256 does not match: the file is damaged")


def _layers(meta, version):
    rows = _list(meta["layers"], "layers")
    if version == 1:
        folded = _list(meta["folded"], "folded")
        _need(all(_is_name(name) for name in folded), "folded holds what is no string")
        return [_entry(row, 4, version) for row in rows], folded
    entries = [_entry(row, 5, version) for row in rows]
    return entries, [entry.folded for entry in entries if entry.folded]


def _entry(row, most, version):
    _need(isinstance(row, list) and 3 <= len(row) <= most and _is_name(row[0]), f"layer {shown(row)}: odd entry")
    name, shape, planes, *rest = row
    _need(_is_shape(shape) and 2 <= len(shape) <= 5, f"layer {shown(name)}: weight shape {shown(shape)}")
    _need(_is_sizes(planes), f"layer {shown(name)}: planes {shown(planes)}")
    _need(not planes or 0 not in shape, f"layer {shown(name)}: quantized, but without weights")
    _need(planes or version > 1, f"layer {shown(name)}: no planes")
    entry = _Entry(name, shape, planes)
    if rest and version > 1:
        bias = rest.pop(0)
        is_name = isinstance(bias, str) and bias != ""
        _need(is_name or (type(bias) is int and bias in (0, 1)), f"layer {shown(name)}: bias {shown(bias)}")
        entry.bias, entry.folded = bool(bias), bias if is_name else None
    if rest:
        (groups,) = rest
        _need(type(groups) is int and groups >= 0, f"layer {shown(name)}: groups {shown(groups)}")
        _need(
            groups == 0 or shape[0] % groups == 0,
            f"layer {shown(name)}: {shown(groups)} groups do not divide {shape[0]}",
        )
        entry.groups = groups
    return entry


def _row(row, parts, what):
    good = isinstance(row, list) and len(row) == parts and _is_name(row[0]) and _is_shape(row[1])
    _need(good, f"{what}: odd entry {shown(row)}")
    if parts == 3:
        _need(isinstance(row[2], str) and row[2] in EXACT, f"{what}: {shown(row[0])} has dtype {shown(row[2])}")
    return row


def _check_names(layers, folded, kept, exact):
    names = [_inside(entry.name, "weight") for entry in layers]
    names += [_inside(entry.name, "bias") for entry in layers if entry.bias]
    names += [row[0] for row in (*kept, *exact)]
    for what, found in (("tensor", names), ("folded batch norm", folded)):
        seen = set()
        for name in found:
            _need(name not in seen, f"{what} {shown(name)} occurs twice")
            seen.add(name)


class _Tensor:
    """One tensor of the container, taken from front to back."""

    def __init__(self, name, tensors):
        self.name, self.at = name, 0
        like = tensors.get("scales" if name == "kept" else "kept")  # these two have one dtype, if only one is there too
        dtype = "<u1" if name in ("codes", "exact", "payload") else "<f2" if like is None else like.dtype
        self.values = tensors.get(name, np.empty(0, dtype))

    def take(self, shape, owner):
        size, left = math.prod(shape), len(self.values) - self.at
        _need(size <= left, f"{shown(owner)} needs more than the {left} elements that {self.name} has left")
        self.at += size
        return self.values[self.at - size : self.at].reshape(shape)

    def finish(self):
        left = len(self.values) - self.at
        _need(left == 0, f"{self.name} has {left} elements that no table asks for")


def _code(row, codes, version):
    """The 0/1 matrix of a code, one row for each output."""
    _need(_is_sizes(row) and 2 <= len(row) <= (3 if version > 1 else 2), f"code entry {shown(row)}")
    n_in, n_out, listed = (*row, 0)[:3]
    what = f"code {shown(n_in)} to {shown(n_out)}"
    _need(1 <= n_in <= n_out <= 256 and listed in (0, 1), f"{what}, listed {shown(listed)}")
    if not listed:
        bits = codes.take([n_out, -(-n_in // 8)], what)
        taps = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)
        _need(not taps[:, n_in:].any(), f"{what}: bits past its inputs are set")
        _need(bool(taps.any(axis=1).all()), f"{what}: a row without taps")
        return taps[:, :n_in]
    matrix = np.zeros((n_out, n_in), bool)
    for output in matrix:
        taps = codes.take([int(codes.take([1], what)[0]) + 1], what).astype(int)
        _need(taps[-1] < n_in and bool((np.diff(taps) > 0).all()), f"{what}: taps {shown(taps.tolist())}")
        output[taps] = True
    return matrix


def _parts(entry, matrices, floats, payload, scales, version):
    """What the file stores of a layer, sliced and not yet decoded."""
    weight = None if entry.planes else floats.take(entry.shape, entry.name)
    bias = floats.take([entry.channels], entry.name) if entry.bias else None
    stored = []
    for index in entry.planes:
        _need(index < len(matrices), f"layer {shown(entry.name)}: no code {index}")
        n_out, n_in = matrices[index].shape
        slices = -(-math.prod(entry.shape) // n_out)
        planes = payload.take([n_in, -(-slices // 8)], entry.name)
        if slices % 8:
            _need(
                not (planes[:, -1] >> slices % 8).any(), f"layer {shown(entry.name)}: padding bits of a plane are set"
            )
        stored.append((matrices[index], slices, planes))
    scale = scales.take([len(stored), entry.channels], entry.name) if stored else None
    if stored:
        with np.errstate(over="ignore"):
            most = sum(np.abs(scale.astype("<f4")), start=np.float32(0))
        _need(bool(np.isfinite(most).all()), f"layer {shown(entry.name)}: scales add up to more than float32 holds")
    return weight, bias, stored, scale


def _decode(entry, weight, bias, stored, scale):
    if not stored:
        return Layer(weight, bias=bias)
    bits = [_plane(*plane)[: math.prod(entry.shape)].reshape(entry.shape) for plane in stored]
    total = None
    for row, plane in zip(scale.astype("<f4"), bits, strict=True):
        term = np.where(plane, _spread(row, entry), -_spread(row, entry))
        total = term if total is None else total + term
    return Layer(total, bits, [matrix.shape[::-1] for matrix, _, _ in stored], bias)


def _plane(matrix, slices, planes):
    """All bits that a code makes of its stored planes, row by row: the surplus is still there."""
    rows = np.stack([np.bitwise_xor.reduce(planes[taps], axis=0) for taps in matrix])
    return np.unpackbits(rows, axis=1, count=slices, bitorder="little").reshape(-1).view(bool)


def _spread(row, entry):
    """A scale for each output channel, shaped to multiply the weight."""
    if entry.groups:
        row = np.repeat(row.reshape(entry.groups, entry.shape[1]), entry.shape[0] // entry.groups, axis=0)
        return row.reshape(entry.shape[:2] + [1] * (len(entry.shape) - 2))
    return row.reshape([-1] + [1] * (len(entry.shape) - 1))


def _exact(name, shape, dtype, raw):
    itemsize = np.dtype(EXACT[dtype]).itemsize
    data = raw.take([*shape, itemsize], name)
    if dtype == "bool":
        _need(not (data > 1).any(), f"{shown(name)} holds a bool that is neither 0 nor 1")
        return data.reshape(shape).view(bool)
    return np.frombuffer(data.tobytes(), EXACT[dtype]).reshape(shape)


def _json(text, what):
    def unique(pairs):
        found = dict(pairs)
        _need(len(found) == len(pairs), f"{what}: a key occurs twice in an object")
        return found

    def integer(digits):
        _need(digits != "-0", f"{what}: -0 is no integer")
        return int(digits)

    def constant(name):
        raise Refused(f"{what}: {name} is no JSON")

    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_int=integer)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no character
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what}: no JSON ({error})") from None
    _need(isinstance(value, dict), f"{what}: no object")
    return value


def _list(value, what):
    _need(isinstance(value, list), f"{what} is no list")
    return value


def _is_name(value):
    return isinstance(value, str)


def _is_sizes(value):
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _is_shape(value):
    fits = _is_sizes(value) and len(value) <= MAX_AXES
    return fits and math.prod(size for size in value if size) < MAX_ELEMENTS


def _inside(name, what):
    return f"{name}.{what}" if name else what


def _need(holds, cause):
    if not holds:
        raise Refused(cause)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Decode a packed FleXOR file with numpy alone.")
    parser.add_argument("file")
    parser.add_argument("--npz", metavar="OUT.npz", help="write every tensor of the model under its name")
    args = parser.parse_args()
    try:
        packed = read(args.file)
    except (Refused, OSError) as error:
        sys.exit(f"{args.file}: {error}")
    print(f"version {packed.version}, model {packed.model!a}, folded: {packed.folded!a}")
    print(f"{'layer':<24} {'weight':<18} {'codes':<18} bias")
    for name, layer in packed.layers.items():
        codes = " ".join(f"{n_in}/{n_out}" for n_in, n_out in layer.codes) or "kept"
        shape = "x".join(map(str, layer.weight.shape))
        print(f"{name!a:<24} {shape:<18} {codes:<18} {'no' if layer.bias is None else 'yes'}")
    print(f"{len(packed.kept)} further tensors kept, {len(packed.exact)} exact")
    if args.npz:
        with zipfile.ZipFile(args.npz, "w") as out:
            for name, value in packed.tensors().items():
                with out.open(f"{quote(name, safe='')}.npy", "w") as member:  # a name is no path: "/" becomes %2F
                    np.lib.format.write_array(member, value, allow_pickle=False)


if __name__ == "__main__":
    main()
