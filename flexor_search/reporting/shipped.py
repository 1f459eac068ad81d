"""What the shipped files hold, as summary.json tells it: the bytes of every part and layer, and what was saved."""

from typing import Any

import pandas as pd

PARTS = {
    "payload_bytes": "encrypted weights",
    "scale_bytes": "scales",
    "kept_bytes": "kept weights and biases",
    "header_bytes": "header",
}
"""Field of a layer in the account of a file -> what the report calls it."""

PADDING = "padding"
"""Bits of the payload that only fill the last byte of a plane."""

WHOLE = {
    "code_table_bytes": "code table",
    "other_kept_bytes": "other tensors",
    "exact_bytes": "other tensors",
    "container_bytes": "header",
}
"""The same of what belongs to no layer."""


WEIGHTS, ALL_ELSE = "searched weights", "all else"
"""The two parts that a summary without an account of the file tells apart."""


def file_parts(summary: dict[str, Any] | None) -> pd.DataFrame:
    """Where the bytes of each chosen model's file go.

    Returns:
        Columns budget, part, file_bytes (an eighth for each bit of padding); a budget's parts add up to its file, empty
        ones are left out. Where the summary has no account of the file, the parts are the searched weights and all
        else.
    """
    rows = []
    for budget, file in _files(summary):
        parts: dict[str, float] = dict.fromkeys((*PARTS.values(), PADDING, *WHOLE.values()), 0.0)
        for field, part in PARTS.items():
            parts[part] += sum(layer[field] for layer in file["layers"])
        padding = sum(layer.get("padding_bits", 0) for layer in file["layers"]) / 8
        parts[PARTS["payload_bytes"]] -= padding
        parts[PADDING] += padding
        for field, part in WHOLE.items():
            parts[part] += file[field]
        rows += [(budget, part, part_bytes) for part, part_bytes in parts.items() if part_bytes]
    for entry in (summary or {}).get("budgets", []):  # of a run made before files were accounted for
        if not entry.get("file"):
            weight_bytes = entry["payload_bits"] // 8
            rows.append((entry["budget"], WEIGHTS, weight_bytes))
            rows.append((entry["budget"], ALL_ELSE, entry["file_bytes"] - weight_bytes))
    return pd.DataFrame(rows, columns=["budget", "part", "file_bytes"])


def layer_sizes(summary: dict[str, Any] | None) -> pd.DataFrame:
    """What every layer takes in the shipped files: weights, scales, bias and its entry in the header.

    Returns:
        Columns budget, layer, weights, layer_bytes.
    """
    rows = [
        (budget, layer["name"], layer["n_weights"], layer["total_bytes"])
        for budget, file in _files(summary)
        for layer in file["layers"]
    ]
    return pd.DataFrame(rows, columns=["budget", "layer", "weights", "layer_bytes"])


def economies(summary: dict[str, Any] | None) -> pd.DataFrame:
    """What each economy of the shipped files saves and changes.

    Returns:
        Columns budget, name, what, saved_bytes, logit_difference (share of the largest logit), tolerance, within.
    """
    columns = ["budget", "name", "what", "saved_bytes", "logit_difference", "tolerance", "within"]
    rows = [
        [entry["budget"], *(step[column] for column in columns[1:])]
        for entry in (summary or {}).get("budgets", [])
        for step in (entry.get("packing") or {"steps": []})["steps"]
    ]
    return pd.DataFrame(rows, columns=columns)


def _files(summary: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    return [(entry["budget"], entry["file"]) for entry in (summary or {}).get("budgets", []) if entry.get("file")]
