"""The name of a storage that several workers share: what it may be, and how it is shown. Nothing is opened here."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flexor_search.errors import UsageError

POSTGRESQL, JOURNAL = "postgresql", "journal"
_KNOWN = "postgresql://USER@HOST/DATABASE for several machines, or journal:FILE on a local disk for one machine"


@dataclass(frozen=True)
class StorageName:
    """A storage by its parts.

    Attributes:
        kind: "postgresql" or "journal".
        place: the whole URL of a database, the path of a file.
    """

    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> "StorageName":
        """Take a name apart.

        Raises:
            UsageError: it is no storage that several processes can share.

        Example:
            >>> StorageName.parse("journal:runs/shared.log").kind
            'journal'
        """
        scheme, colon, rest = text.partition(":")
        if scheme.startswith("sqlite"):
            raise UsageError(
                f"storage: SQLite is for one process, and every run writes its own study.db; got {text!r}. "
                f"For several workers give {_KNOWN}"
            )
        if scheme == JOURNAL and rest.strip("/"):
            path = rest.removeprefix("//")
            return cls(JOURNAL, str(Path(path).absolute()))
        dialect, _, _driver = scheme.partition("+")
        if colon and rest.startswith("//") and dialect in (POSTGRESQL, "postgres"):
            try:
                parts = urlsplit(text)
                _ = parts.port
            except ValueError:  # its text may hold the password
                raise UsageError(f"storage: {_hidden(text)!r} is no URL; give {_KNOWN}") from None
            if not parts.path.strip("/"):
                raise UsageError(f"storage: {_hidden(text)!r} names no database; give {_KNOWN}")
            return cls(POSTGRESQL, POSTGRESQL + text[len(scheme) :])
        raise UsageError(f"storage: {_hidden(text)!r} is not known; give {_KNOWN}")

    @property
    def shown(self) -> str:
        """What may be printed and written down: everything but the password.

        Example:
            >>> StorageName.parse("postgresql://me:secret@host:5432/flexor").shown
            'postgresql://me@host:5432/flexor'
        """
        return _hidden(self.place) if self.kind == POSTGRESQL else f"{JOURNAL}:{self.place}"


def _hidden(url: str) -> str:
    """A URL without its password; cut by hand, because what is no URL may hold one too."""
    scheme, slashes, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    bare = f"{scheme}{slashes}{login.partition(':')[0]}{at}{place}"
    before, question, query = bare.partition("?")
    kept = [part for part in query.split("&") if not part.startswith(("password=", "sslpassword="))]
    return before + (question if any(kept) else "") + "&".join(kept)
