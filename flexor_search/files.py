"""Writing files so that a reader never sees half of one, whatever ends the process or the machine."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexor_search.errors import RunError
from flexor_search.interrupts import unbroken


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename, flush the folder.

    Raises:
        RunError: the folder is not writable or the disk is full; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with unbroken():
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            flush_folder(path.parent)
        except OSError as error:
            try:
                temporary.unlink(missing_ok=True)
            finally:
                raise write_error(path, error) from error


def flush_folder(folder: Path) -> None:
    """Have the names of new files on disk too; where a system cannot do that for folders, nothing is done."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_about_the_disk(error: OSError) -> bool:
    """Whether an error is a full or read-only disk: nothing that the program could have avoided."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def write_json(path: Path, body: Any) -> None:
    """Write an object as indented JSON, atomically."""
    write_atomically(path, (json.dumps(body, indent=2, allow_nan=False) + "\n").encode())


def write_error(path: Path, error: OSError) -> RunError:
    """The one-line error of a folder that cannot be written."""
    return RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")
