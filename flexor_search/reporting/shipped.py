"""What the shipped files hold, read from their headers: the bytes of every part, and of every layer.

docs/format.md says what a header holds. Only lengths and shapes are read here; that the file is sound was proven when
it was shipped.
"""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flexor_search.planning import LayerShape, LayerSpec
from flexor_search.planning.allocation import weight_bits
from flexor_search.runs import Run

PARTS = {
    "payload": "encrypted weights",
    "scales": "scales",
    "codes": "code table",
    "kept": "kept tensors",
    "exact": "kept tensors",
}
"""Tensor of the file -> what the report calls it."""

HEADER = "header"
WEIGHTS, ALL_ELSE = "searched weights", "all else"
"""The two parts that the summary alone tells apart."""


@dataclass(frozen=True)
class _Shipped:
    part_bytes: dict[str, int]
    weight_shapes: dict[str, tuple[int, ...]]


def file_parts(run: Run, summary: dict[str, Any] | None) -> pd.DataFrame:
    """Where the bytes of each chosen model's file go.

    Returns:
        Columns budget, part, file_bytes; a budget's parts add up to its file. Where model-BUDGET.safetensors is gone or
        is not the summary's, the parts are the searched weights and all else.
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        shipped = _shipped(run, entry)
        weight_bytes = entry["payload_bits"] // 8
        parts = shipped.part_bytes if shipped else {WEIGHTS: weight_bytes, ALL_ELSE: entry["file_bytes"] - weight_bytes}
        rows += [(entry["budget"], part, part_bytes) for part, part_bytes in parts.items()]
    return pd.DataFrame(rows, columns=["budget", "part", "file_bytes"])


def layer_sizes(run: Run, summary: dict[str, Any] | None) -> pd.DataFrame:
    """What every layer's weights take in the shipped files.

    Returns:
        Columns budget, layer, weights, weight_bytes; no rows for a budget whose file is not there to be read.
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        shipped = _shipped(run, entry)
        shapes = shipped.weight_shapes if shipped else {}
        for layer, body in entry["allocation"]["layers"].items():
            if layer in shapes:
                shape = LayerShape(layer, "", shapes[layer], out_channels=0, has_bias=False)
                bits = weight_bits(shape, LayerSpec.from_json(body), entry["allocation"]["kept_dtype"])
                rows.append((entry["budget"], layer, shape.n_weights, bits // 8))
    return pd.DataFrame(rows, columns=["budget", "layer", "weights", "weight_bytes"])


def _shipped(run: Run, entry: dict[str, Any]) -> _Shipped | None:
    """What the header of a budget's file says; None if the file is gone, or of another size than the summary's."""
    path = run.folder / f"model-{entry['budget']}.safetensors"
    try:
        if path.stat().st_size != entry["file_bytes"]:
            return None
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), entry["file_bytes"])))
        metadata = json.loads(header["__metadata__"]["flexor"])
        parts: dict[str, int] = {}
        for tensor, part in PARTS.items():
            if tensor in header:
                start, end = header[tensor]["data_offsets"]
                parts[part] = parts.get(part, 0) + end - start
        shapes = {layer[0]: tuple(layer[1]) for layer in metadata["layers"]}
        for name, shape in metadata["kept"]:
            layer, _, tensor = name.rpartition(".")
            if tensor == "weight":
                shapes.setdefault(layer, tuple(shape))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return _Shipped(parts | {HEADER: entry["file_bytes"] - sum(parts.values())}, shapes)
