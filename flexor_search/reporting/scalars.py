"""TensorBoard scalars of a run: a curve for each training, and the search as a whole, in RUN/tensorboard.

tensorboardX writes the event files (it comes with Ray Tune); `tensorboard --logdir RUN/tensorboard` shows them.
"""

import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flexor_search.errors import InUseError
from flexor_search.files import write_error
from flexor_search.runs import DONE, FULL_PRECISION, SEARCH, Measurement, Run
from flexor_search.runs.lock import FolderLock

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"
_WHOLE = "search"


class ScalarWriter:
    """Writes measurements as they come; a context that closes its files.

    Each training has a folder of its own, trial-00012: validation/accuracy after every epoch that was scored, and at
    its end validation/loss, size/bits_per_weight, size/file_bytes and train_seconds. The folder `search` has, with the
    trial's number as the step, accuracy, bits_per_weight and the best accuracy so far of the search's trainings.

    Args:
        run: whose measurements until now are written at once.

    Raises:
        InUseError: another process writes there.
        RunError: the folder cannot be written.
    """

    def __init__(self, run: Run) -> None:
        self.folder = run.folder / FOLDER
        self._best, self._seen = -math.inf, set[int]()
        self._lock = FolderLock(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            if (self.folder / _WHOLE).exists():  # it is written anew; a second file beside it would draw it twice
                shutil.rmtree(self.folder / _WHOLE)
            self._whole = _writer(self.folder / _WHOLE)
            for measurement in run.measurements:
                self.add(measurement)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise write_error(self.folder, error) from error
            raise

    def __enter__(self) -> "ScalarWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, measurement: Measurement) -> None:
        """Write one training; one that was written is passed over.

        Raises:
            RunError: the disk is full or the folder not writable.
        """
        m = measurement
        if m.number in self._seen:
            return
        self._seen.add(m.number)
        folder = self.folder / f"trial-{m.number:05d}"
        try:
            if not folder.exists():
                _write_trial(m, folder)
            if m.phase == SEARCH and m.state == DONE and m.kind != FULL_PRECISION:
                self._best = max(self._best, m.val_accuracy)
                values = {"accuracy": m.val_accuracy, "best_accuracy": self._best, "bits_per_weight": m.bits_per_weight}
                for name, value in values.items():
                    self._whole.add_scalar(f"search/{name}", value, m.number)
                self._whole.flush()
        except OSError as error:
            raise write_error(self.folder, error) from error

    def close(self) -> None:
        """Close the files, and let others write."""
        self._whole.close()
        self._lock.release()


def write_scalars(run: Run) -> Path:
    """Write the scalars of all that a run has measured, and return their folder.

    Where a search is going on that writes them itself, they are left to it.
    """
    with suppress(InUseError):
        ScalarWriter(run).close()
    return run.folder / FOLDER


def _write_trial(m: Measurement, folder: Path) -> None:
    with _writer(folder) as writer:
        for epoch, accuracy in m.rung_accuracies.items():
            writer.add_scalar("validation/accuracy", accuracy, epoch)
        values = {
            "validation/accuracy": m.val_accuracy,
            "validation/loss": m.val_loss,
            "size/bits_per_weight": m.bits_per_weight,
            "size/file_bytes": m.file_bytes,
            "train_seconds": m.train_seconds,
        }
        for name, value in values.items():
            told = name == "validation/accuracy" and m.epochs in m.rung_accuracies
            if math.isfinite(value) and not told:
                writer.add_scalar(name, value, m.epochs)


def _writer(folder: Path) -> "SummaryWriter":
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))
