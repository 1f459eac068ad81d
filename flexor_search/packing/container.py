"""The container's header, read more strictly than the safetensors library reads it.

The library takes unknown fields, lists for objects and tensors without elements; another reader may not. docs/format.md
allows one spelling of each, so that whatever one reader accepts every reader accepts, as the same model.
"""

import json
from reprlib import Repr
from typing import Any

from flexor_search.errors import FormatError
from flexor_search.planning.file_layout import METADATA_KEY

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
NOT_PACKED = f"it is not a packed file: no '{METADATA_KEY}' metadata in a safetensors header"
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxlong = 200
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


def header_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a safetensors header, with the metadata and the tensors' entries in the shape they must have.

    Args:
        raw: the file, or as much of it as holds the header.

    Raises:
        FormatError: there is none.
    """
    if len(raw) < 8:
        raise FormatError(f"it holds {len(raw)} bytes, too few for a packed file")
    header_bytes = int.from_bytes(raw[:8], "little")
    if header_bytes > len(raw) - 8:
        raise FormatError("it is not a packed file, or it is cut short: its header would end past the end of the file")
    if header_bytes > MAX_HEADER_BYTES:
        raise FormatError(f"it is not a valid safetensors container: a header of {header_bytes} bytes is too long")
    if raw[8:9] != b"{":
        raise FormatError(NOT_PACKED)
    try:
        header = json_object(raw[8 : 8 + header_bytes].decode("utf-8"))
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{NOT_PACKED} ({error})") from error
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise FormatError(NOT_PACKED)
    if len(metadata) > 1:
        raise FormatError(f"its __metadata__ must hold '{METADATA_KEY}' and nothing else")
    for name, entry in header.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS):
            raise FormatError(f"it is not a valid safetensors container: the entry of {shown(name)} is malformed")
    return header


def shown(value: Any) -> str:
    """A file's value for a message, which stays short whatever the value is."""
    return _SHORT.repr(value)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object that every parser reads alike.

    Raises:
        FormatError: a key occurs twice.
        ValueError: no JSON, or a number or a string that other parsers read otherwise or not at all.
        TypeError: no object.
        RecursionError: nested too deeply.
    """
    body = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_integer)
    if not isinstance(body, dict):
        raise TypeError("no object")
    if "\\ud" in text.lower():  # only an escape can make half a surrogate pair
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    return body


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys occurs twice: parsers differ in which of two they take."""
    body = dict(pairs)
    if len(body) != len(pairs):
        raise FormatError("a key occurs twice in its header")
    return body


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is an integer to some parsers and a float to others")
    return int(text)
