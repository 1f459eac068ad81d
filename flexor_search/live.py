"""What can be watched while a search goes on, beside the terminal: TensorBoard scalars as each training ends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flexor_search.errors import InUseError
from flexor_search.reporting.scalars import ScalarWriter
from flexor_search.runs import Measurement, Run

if TYPE_CHECKING:
    from flexor_search.tuning import Observer, Phase


@contextmanager
def scalars_too(observer: "Observer | None", folder: Path) -> "Iterator[Observer]":
    """An observer that passes everything on, and writes every training's scalars to the run's folder.

    Args:
        observer: that is told, too; None for none.
        folder: of the run, which may not be there yet.
    """
    from flexor_search.tuning import Silent

    watching = _Scalars(observer or Silent(), folder)
    try:
        yield watching
    finally:
        watching.close()


class _Scalars:
    def __init__(self, inner: "Observer", folder: Path) -> None:
        self._inner, self._folder = inner, folder
        self._writer: ScalarWriter | None = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def message(self, text: str) -> None:
        self._inner.message(text)

    def planned(self, phases: "Sequence[Phase]") -> None:
        self._inner.planned(phases)

    def phase(self, name: str, trainings: int) -> None:
        self._inner.phase(name, trainings)

    def begin(self, what: str) -> None:
        self._inner.begin(what)

    def measured(self, measurement: Measurement, best: str) -> None:
        if self._writer is None:
            with suppress(InUseError):  # a report is being written; the next one writes all
                self._writer = ScalarWriter(Run.open(self._folder))
        if self._writer is not None:
            self._writer.add(measurement)
        self._inner.measured(measurement, best)
