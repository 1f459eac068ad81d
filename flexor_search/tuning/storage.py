"""Opens what several workers share: a PostgreSQL database, or Optuna's journal file for one machine.

SQLite is not among them: Python's driver begins a transaction with the first write and not with the read before it, so
two processes can both find a trial waiting and both take it.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flexor_search.errors import RunError
from flexor_search.files import write_error
from flexor_search.runs import JOURNAL, StorageName

HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60
"""A worker that has not been heard of for so long is dead, and its training is another's."""
_FIRST_COMER = 7_305_091_942
"""The key of the database's lock under which the first worker makes the tables; any number that nobody else uses."""
_PATIENCE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts to reach a database that was there before: it may be starting again."""

T = TypeVar("T")


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna announces experimental arguments and every study; the user asked for neither."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def open_storage(
    name: StorageName, heartbeat_seconds: int = HEARTBEAT_SECONDS, grace_seconds: int = GRACE_SECONDS
) -> BaseStorage:
    """Open a storage; the first worker makes its tables, the others wait for it.

    Args:
        name: of the storage.
        heartbeat_seconds: between two signs of life of a training; of a database only.
        grace_seconds: after so long without one it is dead.

    Raises:
        RunError: it cannot be reached, or not be written; without the password.
    """
    with quiet_optuna():
        if name.kind == JOURNAL:
            return _open_journal(Path(name.place))
        try:
            import psycopg  # noqa: F401  # only to say in time what is missing
        except ImportError as error:
            raise RunError(
                f"storage: {name.shown} needs psycopg: pip install 'flexor-search[postgresql]' ({error})"
            ) from error
        url = "postgresql+psycopg://" + name.place.partition("://")[2]
        try:
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
            with engine.connect() as connection:
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_FIRST_COMER)))
                database = RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=grace_seconds,
                )
            return optuna.storages.get_storage(database)
        except (SQLAlchemyError, StorageInternalError, RuntimeError, ValueError, UnicodeError) as error:
            raise _unreachable(name, error) from None


def close_storage(storage: BaseStorage) -> None:
    """Close the connections to a database."""
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()  # makes it, and is refused where it could not be written
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise write_error(path, error) from error
    except Exception as error:  # there is no end to what a file that is no journal can raise
        raise RunError(f"{path} is not a journal that Optuna can read: {_reason(error)}; name another file") from error


def patiently(name: StorageName, call: Callable[..., T], *args: Any) -> T:
    """Call a storage; where it cannot be reached, again and again for half a minute.

    A call may have been carried out although its answer was lost, so it must do no harm to make it twice.

    Raises:
        RunError: it could not be reached all the time, without the password.
        UpdateFinishedTrialError: passed on.
    """
    for pause in (*_PATIENCE, None):
        try:
            with quiet_optuna():
                return call(*args)
        except UpdateFinishedTrialError:
            raise
        except (StorageInternalError, DBAPIError) as error:
            if pause is None:
                raise _unreachable(name, error) from None
            time.sleep(pause * (0.5 + random.random()))
        except OSError as error:  # of a journal
            raise write_error(Path(name.place), error) from error
    raise AssertionError("the last attempt returns or raises")


def _unreachable(name: StorageName, error: BaseException) -> RunError:
    return RunError(
        f"storage: {name.shown} cannot be used: {_reason(error)}; check that the server runs, that the database exists "
        "and the user may write to it; a password can be in the URL, in PGPASSWORD or in ~/.pgpass"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line; what a driver says names host and user, never a password."""
    while isinstance(error, SQLAlchemyError | StorageInternalError):
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is None:
            break
        error = inner
    text = " ".join(str(error).split())
    return text or type(error).__name__
