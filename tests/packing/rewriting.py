"""Rewrites packed files by the format's definition alone, so that a lie carries a correct hash."""

import hashlib
import json

from safetensors.numpy import load, save

HASH = "0" * 64
MARK = b'\\"sha256\\":\\"'


def signed(raw):
    """The bytes with the hash that belongs to them."""
    start = raw.index(MARK) + len(MARK)
    zeroed = raw[:start] + HASH.encode() + raw[start + len(HASH) :]
    return zeroed[:start] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[start + len(HASH) :]


def metadata_of(raw):
    """The metadata object of a packed file."""
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return json.loads(header["__metadata__"]["flexor"])


def rewritten(raw, edit):
    """The file after edit(metadata, tensors) changed them in place, with a correct hash."""
    metadata, tensors = metadata_of(raw), {name: tensor.copy() for name, tensor in load(raw).items()}
    edit(metadata, tensors)
    text = json.dumps(metadata | {"sha256": HASH}, separators=(",", ":"))
    return signed(save(tensors, {"flexor": text}))
