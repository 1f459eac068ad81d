"""Small packed files, and mutations of them that know the format.

A file that is changed anywhere fails its hash, and the hash would hide every check behind it. So most mutations sign
what they broke, and half of those that edit the tables also fit the tensors to what the tables say now: such files get
furthest into a reader.
"""

import contextlib
import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from flexor_search.packing import pack, to_bytes
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.training import seeded

HASH, MARK = b"0" * 64, b'\\"sha256\\":\\"'
ITEM_BYTES = {"U8": 1, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "BOOL": 1}
EXACT_BYTES = {"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 9, 31, 33, 64, 255, 256, 257, 65536, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30)
NAMES = ("", "0", "weight", "bias", "3.weight", ".3", "../../x", "/etc/passwd", "__class__", "weight.__init__", "a\\b")
ODD_NAMES = ("\x00", "\n", "\x1b[2J", "\ud800", "имя", "[red]", "{0.__class__}", "%s%n", "$(id)", "file", "n" * 300)
DTYPES = (*EXACT_BYTES, "float16", "float32", "float64", "bfloat16", "object", "uint16", "complex64", "<i8", "V8")
OTHERS = (None, True, False, 0.0, 1.0, 2.5, -0.0, 1e308, math.nan, math.inf, [], {}, [0], [[]], [0, 0], [[0]], {"a": 0})
MOST_BYTES = 20_000  # no mutation grows a tensor past this


@dataclass(frozen=True)
class Seed:
    """A packed file to start from."""

    name: str
    raw: bytes


@dataclass
class Parts:
    """A packed file taken apart: its tables, and for each tensor of the container its dtype and bytes."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: bytes) -> "Parts | None":
        """What the bytes hold, None if they cannot be taken apart."""
        length = int.from_bytes(raw[:8], "little")
        try:
            header = json.loads(raw[8 : 8 + length])
            parts = cls(json.loads(header.pop("__metadata__")["flexor"]))
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                parts.tensors[name] = entry["dtype"], raw[8 + length + begin : 8 + length + end]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return parts if isinstance(parts.metadata, dict) else None

    def header(self) -> dict[str, Any]:
        """The container's header, truthful."""
        text = json.dumps(self.metadata | {"sha256": HASH.decode()}, separators=(",", ":"))
        header: dict[str, Any] = {"__metadata__": {"flexor": text}}
        begin = 0
        for name, (dtype, data) in self.tensors.items():
            end = begin + len(data)
            shape = [len(data) // ITEM_BYTES.get(dtype, 1)]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
            begin = end
        return header

    def joined(self, header: dict[str, Any] | None = None) -> bytes:
        """The file, signed; with another header than the truthful one if given."""
        data = b"".join(data for _, data in self.tensors.values())
        return with_header(json.dumps(header or self.header(), separators=(",", ":")).encode(), data)


class Counted(nn.Module):
    """Buffers of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(-(2**40)))
        self.register_buffer("odd", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("shift", torch.tensor([0.5, -2.0], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing happens."""
        return x


def convolutions() -> nn.Module:
    """Every kind of layer, one batch norm that is folded and one that is not."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv1d(4, 6, 2, groups=2), nn.ReLU()),
        *(nn.BatchNorm1d(6), nn.ConvTranspose1d(6, 4, 2, groups=2), Counted(), nn.Linear(5, 3)),
    )


def tied() -> nn.Module:
    """Two layers with one weight."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight  # type: ignore[union-attr]
    return model


def single() -> nn.Module:
    """The smallest."""
    return nn.Linear(3, 2, bias=False)


ARCHITECTURES = (convolutions, tied, single)


def seeds() -> tuple[Seed, ...]:
    """The files to start from: of every kind of layer, in both versions, down to a file of 0.5 KB."""
    three = LayerSpec("systematic", 2, 3, n_planes=3)
    chosen: list[tuple[str, Callable[[], nn.Module], dict[str, LayerSpec], str]] = [
        ("convolutions", convolutions, {"0": LayerSpec(n_in=6, n_out=8), "3": three, "6": three}, "float16"),
        ("kept", convolutions, {}, "float32"),
        ("tied", tied, {"0": LayerSpec("random", 9, 10, n_planes=2, code_seed=1)}, "float32"),
        ("single", single, {"": LayerSpec("taps", 2, 3)}, "float16"),
        ("listed", single, {"": LayerSpec("systematic", 17, 17)}, "float32"),
    ]
    found = []
    for name, build, specs, kept_dtype in chosen:
        with seeded(1):
            shape = describe(build())
            full = {layer.name: specs.get(layer.name, KEPT) for layer in shape.layers}
            allocation = Allocation.of(shape, full, kept_dtype)
            raw = to_bytes(pack(quantize_(build(), allocation), allocation), allocation)
        found += [Seed(name, raw), Seed(f"{name}, version 1", version_1(raw))]
    return tuple(found)


def version_1(raw: bytes) -> bytes:
    """The same model as version 1 wrote it."""
    parts = Parts.of(raw)
    assert parts is not None
    layers, kept, folded = [], [], []
    for name, shape, planes, *rest in parts.metadata["layers"]:
        bias, groups = (*rest, 0, 0)[:2] if rest else (0, 0)
        prefix = f"{name}." if name else ""
        kept += [] if planes else [[f"{prefix}weight", shape]]
        kept += [[f"{prefix}bias", [groups * shape[1] if groups else shape[0]]]] if bias else []
        folded += [bias] if isinstance(bias, str) else []
        layers += [[name, shape, planes, *([groups] if groups else [])]] if planes else []
    codes, at, rows = parts.tensors.get("codes", ("U8", b""))[1], 0, b""
    for n_in, n_out, *listed in parts.metadata["codes"]:
        for _ in range(n_out):
            if listed == [1]:  # the only way there was is bits
                n_taps = codes[at] + 1
                rows += sum(1 << tap for tap in codes[at + 1 : at + 1 + n_taps]).to_bytes(-(-n_in // 8), "little")
                at += 1 + n_taps
            else:
                rows += codes[at : at + -(-n_in // 8)]
                at += -(-n_in // 8)
    if rows:
        parts.tensors["codes"] = "U8", rows
    sizes = [[n_in, n_out] for n_in, n_out, *_ in parts.metadata["codes"]]
    tables = {"version": 1, "codes": sizes, "layers": layers, "kept": kept + parts.metadata["kept"]}
    parts.metadata = parts.metadata | tables | {"folded": folded}
    return parts.joined()


def signed(raw: bytes) -> bytes:
    """The bytes with the hash that belongs to them, if they have a place for one."""
    start = raw.find(MARK) + len(MARK)
    if start < len(MARK) or start + len(HASH) > len(raw):
        return raw
    zeroed = raw[:start] + HASH + raw[start + len(HASH) :]
    return zeroed[:start] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[start + len(HASH) :]


def with_header(text: bytes, data: bytes) -> bytes:
    """A signed container of a header and the data behind it."""
    text += b" " * (-len(text) % 8)
    return signed(len(text).to_bytes(8, "little") + text + data)


def mutated(rng: random.Random, raw: bytes, other: bytes) -> tuple[str, bytes]:
    """One mutation of a file, and what kind it is.

    Args:
        rng: what chooses.
        raw: the file; anything is taken, and what is no packed file is changed as bytes.
        other: another file to take pieces from.
    """
    kind = rng.choices(list(MUTATIONS), [weight for weight, _ in MUTATIONS.values()])[0]
    parts = Parts.of(raw)
    if parts is None:
        return "bytes, signed", signed(_bytes(rng, raw, other))
    try:
        return kind, MUTATIONS[kind][1](rng, raw, other)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError):
        return "bytes, signed", signed(_bytes(rng, raw, other))  # tables that were mutated before cannot be edited


def _bytes(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Bytes changed, cut, inserted, repeated, or taken from another file."""
    at, size = rng.randrange(len(raw) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    match rng.randrange(7):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + rng.randbytes(size) + raw[at:]
        case 2:
            return raw[:at] + raw[at + size :]
        case 3:
            return raw[:at] + other[rng.randrange(len(other) + 1) :]
        case 4:
            return raw[:at] + raw[at : at + size] * 2 + raw[at + size :]
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((rng.randrange(256), 0, 255, 34, 48, 49, 44, 91))
    return bytes(changed)


def _data(rng: random.Random, raw: bytes) -> bytes:
    """Bytes of the tensors alone."""
    start = 8 + int.from_bytes(raw[:8], "little")
    changed = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(start, len(raw))] ^= rng.choice((1, 128, rng.randrange(1, 256)))
    return bytes(changed)


def _header(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """The container's header lies, or is spelled oddly."""
    parts = Parts.of(raw)
    assert parts is not None
    header, name = parts.header(), rng.choice(list(parts.tensors))
    entry, another = header[name], header[rng.choice(list(parts.tensors))]
    data = b"".join(data for _, data in parts.tensors.values())
    match rng.randrange(16):
        case 0:
            entry["data_offsets"] = another["data_offsets"]
        case 1:
            entry["data_offsets"][rng.randrange(2)] += rng.choice((-8, -1, 1, 8, 2**63))
        case 2:
            entry["data_offsets"] = rng.choice((*OTHERS, [0], [1, 0], [0, 0, 0], ["0", "1"]))
        case 3:
            entry["shape"] = rng.choice((*OTHERS, [1, *entry["shape"]], [*entry["shape"], 1], [rng.choice(NUMBERS)]))
        case 4:
            entry["dtype"] = rng.choice((*ITEM_BYTES, "F99", "u8", "BF16", *OTHERS))
        case 5:
            entry[rng.choice(("x", "", "Dtype"))] = rng.choice((*OTHERS, *NUMBERS))
        case 6:
            header[name] = [entry["dtype"], entry["shape"], entry["data_offsets"]]
        case 7:
            header[rng.choice(NAMES + ODD_NAMES)] = header.pop(name)
        case 8:
            header["__metadata__"][rng.choice(("x", "Flexor", "format"))] = rng.choice(("", "pt", *OTHERS))
        case 9:
            empty = {"dtype": rng.choice(("U8", "F16", "F32")), "shape": [0], "data_offsets": [len(data)] * 2}
            header[rng.choice(("codes", "exact", "kept", "payload", "scales", "x"))] = empty
        case 10:
            entries = list(header.items())
            rng.shuffle(entries)
            header = dict(entries)
        case 11:
            data += rng.randbytes(rng.choice((1, 8, 64)))
        case 12:
            data = data[: -rng.choice((1, 2, 8))]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=rng.random() < 0.8)
    if rng.random() < 0.4:
        text = _spelled(rng, text)
    return with_header(text.encode("utf-8", "surrogatepass"), data)


def _spelled(rng: random.Random, text: str) -> str:
    """JSON text that is another spelling of the same, or nearly."""
    token = rng.choice(list(re.finditer(r'[\[\]{}:,]|\d+|\\?"\w*\\?"', text)))
    start, end = token.span()
    pair = rng.choice(list(re.finditer(r'\\?"\w+\\?":[^,{}]+,', text))).group()
    return rng.choice(
        (
            lambda: text[:start] + rng.choice((" ", "\t", "\n", "\\n", "\x0b", "\ufeff")) + text[start:],
            lambda: text[:start] + str(rng.choice(NUMBERS)) + text[end:],
            lambda: (
                text[:start] + rng.choice(("-0", "1.0", "1e1", "01", "NaN", "-Infinity", "null", "true")) + text[end:]
            ),
            lambda: text[:start] + token.group() * 2 + text[end:],
            lambda: text.replace(pair, pair * 2, 1),
            lambda: text[:start] + text[end:],
            lambda: text.replace("version", rng.choice(("\\\\u0076ersion", "\\u0076ersion", "Version")), 1),
            lambda: text.replace("payload", "\\u0070ayload", 1),
            lambda: rng.choice((" ", "\n", "\ufeff", "[")) + text,
            lambda: text + rng.choice(("\n", "\t", "\x00", "{}", "]")),
            lambda: text[:start] + "[" * rng.choice((50, 130, 900, 990, 5000)) + text[start:],
        )
    )()


def _tables(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Any value anywhere in the metadata, its tensors as they were."""
    parts = Parts.of(raw)
    assert parts is not None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _edit(rng, parts.metadata, Parts.of(other))
    return parts.joined()


def _fitted_tables(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """The metadata edited and the tensors cut or filled up to what they say then."""
    parts = Parts.of(raw)
    assert parts is not None
    for _ in range(rng.choice((1, 1, 2, 3))):
        _edit(rng, parts.metadata, Parts.of(other))
    with contextlib.suppress(KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
        _fit(rng, parts)  # there may be nothing to fit them to
    return parts.joined()


def _tensors(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Tensors of another length, dtype, or content, under a truthful header."""
    parts, donor = Parts.of(raw), Parts.of(other)
    assert parts is not None
    name = rng.choice(list(parts.tensors))
    dtype, data = parts.tensors[name]
    match rng.randrange(7):
        case 0:
            parts.tensors.pop(name)
        case 1:
            parts.tensors[name] = dtype, data[: rng.randrange(len(data) + 1)]
        case 2:
            parts.tensors[name] = dtype, data + rng.randbytes(rng.choice((1, 2, 4, 8)))
        case 3:
            parts.tensors[name] = rng.choice(list(ITEM_BYTES)), data
        case 4:
            odd = {"F16": (b"\x00\x7c", b"\xff\xff", b"\x00\x80"), "F32": (b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f")}
            value = rng.choice(odd.get(dtype, (b"\xff", b"\x00", b"\x02")))
            at = rng.randrange(len(data) // len(value)) * len(value)
            count = rng.choice((1, 1, len(data)))
            parts.tensors[name] = dtype, data[:at] + (value * count + data[at + len(value) * count :])[: len(data) - at]
        case 5:
            parts.tensors[name] = dtype, rng.randbytes(len(data))
        case 6 if donor:
            parts.tensors |= donor.tensors
    return parts.joined()


def _edit(rng: random.Random, metadata: dict[str, Any], donor: Parts | None) -> None:
    """One value of the tables is replaced, removed, repeated, moved or nudged, in place."""
    where: Any = metadata
    key: Any = rng.choice(
        ("version", "model", "codes", "layers", "layers", "layers", "kept", "exact", "exact", "folded")
    )
    if key not in where:
        key = "layers"
    while isinstance(where[key], list) and where[key] and rng.random() < 0.85:
        where = where[key]
        key = rng.randrange(len(where))
    old = where[key]
    match rng.randrange(10):
        case 0 | 1 | 2 if type(old) is int:
            where[key] = old + rng.choice((-1, 1, 2, 8))
        case 0 | 1 | 2 if isinstance(old, list) and old:
            rng.choice((rng.shuffle, list.pop, lambda entries: entries.append(deepcopy(rng.choice(entries)))))(old)
        case 3:
            where.pop(key)
        case 4 if isinstance(where, list):
            where.insert(key, deepcopy(rng.choice(where)))
        case 5 if donor:
            same = rng.choice(("codes", "layers", "kept", "exact"))
            metadata[same] = donor.metadata[same]
        case 6:
            where[key] = rng.choice(OTHERS)
        case 7 if isinstance(old, str):
            where[key] = rng.choice((*NAMES, *ODD_NAMES, *DTYPES, old + "x", f".{old}", old.upper()))
        case 8 if isinstance(old, list):
            where[key] = [rng.choice((0, 1, 2, 3, rng.choice(NUMBERS))) for _ in range(rng.choice((0, 1, 2, 5, 6, 40)))]
        case _:
            where[key] = rng.choice((*NUMBERS, *NUMBERS, *NAMES, *DTYPES))


def _fit(rng: random.Random, parts: Parts) -> None:
    """Cut the tensors, or fill them up, to what the tables say."""
    metadata, codes = parts.metadata, parts.metadata["codes"]
    sizes = dict.fromkeys(("codes", "exact", "kept", "payload", "scales"), 0)
    for n_in, n_out, *listed in codes:  # of a list the size is a guess: identity rows
        sizes["codes"] += int(n_out) * (2 if listed == [1] else -(-int(n_in) // 8))
    for _, shape, planes, *rest in metadata["layers"]:
        bias, groups = (*rest, 0, 0)[:2] if metadata["version"] != 1 else (0, *rest, 0)[:2]
        channels = _product([groups, shape[1]] if groups else shape[:1])
        sizes["kept"] += 0 if planes else _product(shape)
        sizes["kept"] += channels if bias else 0
        sizes["scales"] += len(planes) * channels
        for index in planes:
            n_in, n_out = map(int, codes[index][:2])
            sizes["payload"] += n_in * -(-_product(shape) // (8 * n_out))
    sizes["kept"] += sum(_product(shape) for _, shape in metadata["kept"])
    sizes["exact"] = sum(_product(shape) * EXACT_BYTES[dtype] for _, shape, dtype in metadata["exact"])
    float_dtype = parts.tensors.get("kept", parts.tensors.get("scales", ("F16", b"")))[0]
    for name, elements in sizes.items():
        dtype = float_dtype if name in ("kept", "scales") else "U8"
        length = elements * ITEM_BYTES[dtype]
        if 0 < length < MOST_BYTES:
            data = parts.tensors.get(name, (dtype, b""))[1][:length]
            fill = b"\x01" if name == "codes" or rng.random() < 0.3 else b"\x00"
            parts.tensors[name] = dtype, data + fill * (length - len(data))
        elif not length:
            parts.tensors.pop(name, None)


def _product(shape: list[Any]) -> int:
    """Elements of a shape of integers; with anything else in it, Python would repeat lists and strings."""
    if not all(type(size) is int for size in shape):
        raise TypeError("no shape")
    return math.prod(shape)


MUTATIONS: dict[str, tuple[int, Callable[[random.Random, bytes, bytes], bytes]]] = {
    "bytes": (5, _bytes),
    "bytes, signed": (10, lambda rng, raw, other: signed(_bytes(rng, raw, other))),
    "data, signed": (10, lambda rng, raw, other: signed(_data(rng, raw))),
    "header, signed": (20, _header),
    "tables, signed": (20, _tables),
    "tables and tensors, signed": (30, _fitted_tables),
    "tensors, signed": (10, _tensors),
}
"""Kind: weight and function."""
