"""One process at a time in a run folder: a lock of the system's, which a dead process cannot hold.

The file `.lock` also says who holds it, for the one that is refused. What it says is no lock: a process that was killed
leaves its name there and holds nothing, so that the next one takes the folder over and can tell from whom.
"""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from flexor_search.errors import InUseError
from flexor_search.files import write_error


class FolderLock:
    """The lock of a folder; not held at first.

    Attributes:
        taken_over_from: the holder that ended without letting go, "" if there was none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None
        self.taken_over_from = ""

    def take(self) -> None:
        """Hold it until `release` or the end of this process.

        Raises:
            InUseError: another process holds it, which is named.
            RunError: the folder cannot be written.
        """
        try:
            self._file = (self._folder / ".lock").open("a+", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = isinstance(error, BlockingIOError)
            holder = self._read() if held else ""
            self._close()
            if not held:
                raise write_error(self._folder, error) from error
            raise InUseError(
                f"{self._folder} is in use by another process{f', {holder}' if holder else ''}; "
                "wait for it or choose another --out"
            ) from error
        self.taken_over_from = self._read()
        self._write(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._write("")
            self._close()

    def _read(self) -> str:
        """Who the file says holds it."""
        with suppress(OSError, ValueError):
            if self._file is not None:
                self._file.seek(0)
                return self._file.readline(200).strip()
        return ""

    def _write(self, text: str) -> None:
        """Say who holds it; a disk that is full does not keep the lock from being held."""
        with suppress(OSError):
            if self._file is not None:
                self._file.truncate(0)
                self._file.write(text)
                self._file.flush()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what a full disk did not take is tried once more, and may be lost
                file.close()
