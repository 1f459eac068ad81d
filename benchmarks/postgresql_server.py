"""A throw-away PostgreSQL server on loopback, from Debian's package."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder of the newest server that is installed; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Server:
    """A server that may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        found = binaries()
        assert found is not None, "needs Debian's postgresql"
        self.folder, self.bin, self.port = folder, found, free_port()
        self.data = self.folder / "data"
        self._login = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._login:  # PostgreSQL does not run as root
            self.folder.chmod(0o755)
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.data, "-U", "flexor", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def database(self, name: str) -> str:
        """Make an empty database, and give its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "flexor", name)
        return f"postgresql://flexor:secret@127.0.0.1:{self.port}/{name}"  # the server trusts, the password is to hide

    def _run(self, program: str, *args: object) -> None:
        command = [*self._login, str(self.bin / program), *map(str, args)]
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile("w+") as said:  # a pipe would stay open as long as the server
            done = subprocess.run(command, env=environment, stdout=said, stderr=said, check=False, cwd="/")
            said.seek(0)
            assert done.returncode == 0, said.read()


@contextmanager
def server() -> Iterator[Server]:
    """A running server; it and its folder are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flexor-postgresql-") as folder:
        made = Server(Path(folder))
        made.start()
        try:
            yield made
        finally:
            made.stop("immediate")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
