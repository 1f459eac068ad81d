"""A folder of config.json and model.safetensors, the layout that model hubs and `PyTorchModelHubMixin` use.

config.json holds the arguments that the model's class is made with, as the mixin writes them, and one key of ours. So a
folder that the mixin saved becomes one of ours by replacing its model.safetensors.
"""

import json
from pathlib import Path
from typing import Any

from flexor_search.errors import FormatError
from flexor_search.files import write_atomically, write_error, write_json
from flexor_search.packing.safetensors_file import from_bytes, named, read_bytes

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN_KEY = "flexor_search"


def weights_path(path: Path) -> Path:
    """The packed file that a path names: itself, or the one in a folder."""
    return path / WEIGHTS if path.is_dir() else path


def save_folder(
    packed_path: Path, folder: Path, origin: dict[str, Any], arguments: dict[str, Any] | None = None
) -> None:
    """Write a packed file and its configuration into a folder, made if it is not there.

    Args:
        packed_path: the packed file.
        folder: to write to; other files in it are left alone, and so are the arguments in a config.json that is there.
        origin: where the architecture comes from, for people: the workload, or the "module:function" of one's own.
        arguments: keyword arguments that make the model's class, beside those that are there; none for a workload's.

    Raises:
        FormatError: the packed file is damaged.
        RunError: the folder cannot be written.
    """
    raw = read_bytes(packed_path)
    with named(packed_path):
        from_bytes(raw)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    write_atomically(folder / WEIGHTS, raw)
    write_json(folder / CONFIG, read_config(folder) | (arguments or {}) | {OWN_KEY: origin | {"file": WEIGHTS}})


def read_config(folder: Path) -> dict[str, Any]:
    """The arguments in a folder's config.json; none where there is no such file.

    Raises:
        FormatError: it is no JSON object.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    try:
        body = json.loads(read_bytes(path))
        return {name: value for name, value in body.items() if name != OWN_KEY}
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: it is not a JSON object: {error}") from error
