"""Files that are cut short, changed, or no packed files at all: each gives a FormatError."""

import random
import struct

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from benchmarks.mutations import seeds
from flexor_search.errors import FormatError
from flexor_search.packing import from_bytes, load, pack, to_bytes, verify_file

from .models import digits_case
from .rewriting import signed


@pytest.fixture(scope="module")
def raw():
    case = digits_case()
    return to_bytes(pack(case.model, case.allocation), case.allocation)


def test_signing_by_the_formats_definition_is_signing(raw):
    assert signed(raw) == raw


def test_every_truncation(raw):
    for length in range(len(raw)):
        with pytest.raises(FormatError):
            from_bytes(raw[:length])


def test_bytes_after_the_end(raw):
    for more in (b"\x00", b" ", raw):
        with pytest.raises(FormatError):
            from_bytes(raw + more)


def test_every_byte_changed_in_three_ways(raw):
    choose = random.Random(0)
    for place in range(len(raw)):
        for change in (1, 128, choose.randrange(1, 256)):
            changed = bytearray(raw)
            changed[place] ^= change
            with pytest.raises(FormatError):
                from_bytes(bytes(changed))


def test_the_smallest_file_with_any_byte_changed():
    """`python -m benchmarks.fuzz mutate --every-byte` does it with all 255 values."""
    smallest = min((seed.raw for seed in seeds()), key=len)
    assert len(smallest) < 500
    for place in range(len(smallest)):
        for value in {*range(place % 7, 256, 7), 0, 255, *b'0 "\\[]{},'} - {smallest[place]}:
            with pytest.raises(FormatError):
                from_bytes(smallest[:place] + bytes([value]) + smallest[place + 1 :])


def test_a_hash_in_capitals_is_another_hash(raw):
    start = raw.index(b'sha256\\":\\"') + 11
    with pytest.raises(FormatError):
        from_bytes(raw[:start] + raw[start : start + 64].upper() + raw[start + 64 :])


def header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"short", "5 bytes"),
        (bytes(range(256)) * 20, "not a packed file"),
        (random.Random(3).randbytes(5000), "not a packed file"),
        (b"\x00" * 100, "not a packed file"),
        (b"<!DOCTYPE html><title>404</title>", "not a packed file"),
        (save_tensors({"weight": np.zeros((3, 4), np.float32)}), "not a packed file: no 'flexor' metadata"),
        (save_tensors({"weight": np.zeros(3)}, {"format": "pt"}), "no 'flexor' metadata"),
        (save_tensors({"weight": np.zeros(3)}, {"flexor": "no json"}), "no 'flexor' metadata"),
        (save_tensors({"weight": np.zeros(3)}, {"flexor": "[1]"}), "no 'flexor' metadata"),
        (save_tensors({"weight": np.zeros(3)}, {"flexor": "{}"}), "no 'flexor' metadata"),
        (save_tensors({"weight": np.zeros(3)}, {"flexor": '{"version":1}'}), "metadata field 'sha256' is wrong"),
        (header(b"{}"), "no 'flexor' metadata"),
        (header(b"[" * 200_000), "no 'flexor' metadata"),
        (header(b'{"__metadata__":{"flexor":' + b"1" * 9000 + b"}}"), "no 'flexor' metadata"),
        (header(b"{}", 2**64 - 1), "past the end"),
        (header(b"\xff\xfe{}"), "no 'flexor' metadata"),
    ],
)
def test_not_a_packed_file(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for read in (load, verify_file):
        with pytest.raises(FormatError, match=f"(?s)model.safetensors: .*{message}"):
            read(path)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(FormatError, match=r"nothing.safetensors: cannot be read: No such file"):
        load(tmp_path / "nothing.safetensors")
