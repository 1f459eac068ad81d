"""Writing files so that a reader never sees half of one."""

import json
import os
from pathlib import Path
from typing import Any

from flexor_search.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename.

    Raises:
        RunError: the folder is not writable or the disk is full; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        finally:
            raise write_error(path, error) from error


def write_json(path: Path, body: Any) -> None:
    """Write an object as indented JSON, atomically."""
    write_atomically(path, (json.dumps(body, indent=2, allow_nan=False) + "\n").encode())


def write_error(path: Path, error: OSError) -> RunError:
    """The one-line error of a folder that cannot be written."""
    return RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")
