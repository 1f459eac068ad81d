"""Who a worker is, so that another one on the same machine can see at once that it is gone."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerName:
    """A process on a machine.

    Attributes:
        machine: the machine, and the space of process numbers where there are containers.
        host: its name, for people.
        process: its number there.
        begun: when it began, by the system's clock ticks; tells it from a later process of that number; "" if unknown.
    """

    machine: str
    host: str
    process: int
    begun: str

    @classmethod
    def mine(cls) -> "WorkerName":
        """This process."""
        return cls(_machine(), platform.node() or "unknown", os.getpid(), _begun(os.getpid()))

    @property
    def text(self) -> str:
        """As it stands in a study."""
        return " ".join((self.machine, self.host.replace(" ", "-"), str(self.process), self.begun))

    @property
    def shown(self) -> str:
        """For people, and for the column of measurements.csv."""
        return f"{self.host}-{self.process}"

    @classmethod
    def parse(cls, text: str) -> "WorkerName | None":
        """From a study; None if it is no such name."""
        parts = text.split(" ")
        if len(parts) != 4 or not parts[2].isdigit():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def is_gone(self) -> bool:
        """Whether it is a process of this machine that is not there any more; of other machines nothing is known."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return self.begun != _begun(self.process)


def _machine() -> str:
    """One start of one machine; a container has its own process numbers, so it counts as one of its own."""
    found = []
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return "-".join(found) if found else platform.node().replace(" ", "-") or "unknown"


def _begun(process: int) -> str:
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]  # killed, and nobody has asked how it ended
    return ""
