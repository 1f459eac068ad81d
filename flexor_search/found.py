"""A run in Python: what a search found, as tables and models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from flexor_search import exporting
from flexor_search.asking import Question
from flexor_search.errors import RunError
from flexor_search.packing import load_packed
from flexor_search.planning import Budget, LayerSpec
from flexor_search.question import plan_of_run
from flexor_search.reporting import front, inline_html, write_report
from flexor_search.runs import ACCURACY, MetricWords
from flexor_search.runs import Run as Folder
from flexor_search.tuning import model_of_run
from flexor_search.workloads import Given

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Best:
    """The best model of a run under a budget.

    Attributes:
        budget: it was asked for with.
        path: of its packed file, verified.
        bits_per_weight: of the searched layers, as stored.
        file_bytes: of the packed file.
        val_accuracy: mean over its trainings, a fraction.
        test_accuracy: mean over its trainings, a fraction; None where the test set was not read for it.
        layers: layer name -> what it takes, "12/20" or "kept".
        run: it belongs to.
    """

    budget: str
    path: Path
    bits_per_weight: float
    file_bytes: int
    val_accuracy: float
    test_accuracy: float | None
    layers: dict[str, str]
    run: "Run" = field(repr=False, compare=False)

    def load(self, *, keep_packed: bool = False) -> nn.Module:
        """The model, for evaluation, in float32; `keep_packed` as in `load_packed`.

        Raises:
            RunError: the code of one's own model has changed since; `fs.load_packed(best.path, model)` looks at shapes
                alone.
        """
        if self.run.question.get("workload"):
            return load_packed(self.path, keep_packed=keep_packed)
        record = self.run.record
        model = exporting.workload_of(record, Question.from_run(record), self.run.given).build()
        return load_packed(self.path, model, keep_packed=keep_packed)


@dataclass(frozen=True)
class Run:
    """A run folder, and the model and data that it needs where those were given as objects.

    In a notebook it shows its results and accuracy against size.

    Attributes:
        record: everything in the folder.
        given: model and data, where they were objects.

    Example:
        >>> import tempfile, torch, flexor_search as fs
        >>> folder = tempfile.TemporaryDirectory()
        >>> def net():
        ...     return torch.nn.Sequential(torch.nn.Linear(16, 80), torch.nn.ReLU(), torch.nn.Linear(80, 2))
        >>> data = [(torch.randn(32, 16), torch.arange(32) % 2) for _ in range(3)]
        >>> short = fs.Question(trials=2, epochs=1, seeds=1)
        >>> fs.search(net, data, "0.7bpw", short, out=folder.name, observer=fs.Silent()).front().columns[4]
        'bits_per_weight'
        >>> run = fs.open_run(folder.name, net, data)
        >>> run.best().bits_per_weight <= 0.7, run.best().layers["2"]
        (True, 'kept')
        >>> mean, deviation = run.predict(run.best().layers)
        >>> 0 < mean < 1 and deviation > 0
        True
        >>> run.report().name, run.export(to=f"{folder.name}/hub/").name
        ('report.html', 'hub')
        >>> fs.verify(f"{folder.name}/hub").passed[0]
        'container is whole and its SHA-256 matches every byte'
        >>> more = fs.resume(folder.name, net, data, {"trials": 3}, observer=fs.Silent())
        >>> len(more.measurements()) > len(run.measurements())
        True
        >>> folder.cleanup()
    """

    record: Folder
    given: Given | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.record.folder

    @property
    def question(self) -> dict[str, Any]:
        """What was asked, with the defaults filled in; trials 0: as many as the strategy does by itself."""
        return self.record.question

    def summary(self) -> dict[str, Any] | None:
        """What came out, as in summary.json; None before there is anything."""
        return self.record.summary()

    def measurements(self) -> "pd.DataFrame":
        """Every training, a row each."""
        return self.record.frame()

    def front(self) -> "pd.DataFrame":
        """The most accurate allocation for every size: of trainings in full, then of the search's shorter ones.

        Returns:
            Columns fidelity ("confirm" or "search"), kind, digest, label, bits_per_weight, nominal_bits_per_weight,
            payload_bits, file_bytes, val_accuracy, val_std, seeds.
        """
        return front(self.record)

    def best(self, budget: str = "") -> Best:
        """The most accurate model that was trained and fits a budget.

        Args:
            budget: any; default the run's own, if it has one alone.

        Raises:
            UsageError: no budget, or one below the least reachable size.
            RunError: nothing that fits was trained.
        """
        limit = exporting.budget_of(self.record, budget)
        for entry in self.record.chosen():
            own = Budget.parse(entry["budget"])
            if own.key == limit.key:
                path = self.folder / f"model-{entry['budget']}.safetensors"
                return self._best(own, path, entry, entry["val_accuracy"]["mean"], entry["test_accuracy"])
        group = exporting.best_fitting(self.record, limit, self.given)
        shipped = group.best
        body = {"bits_per_weight": shipped.bits_per_weight, "allocation": json.loads(shipped.allocation)}
        return self._best(limit, self.record.trained_path(shipped.number), body, group.mean, None)

    def _best(self, limit: Budget, path: Path, body: dict[str, Any], mean: float, tested: dict | None) -> Best:
        if not path.is_file():
            raise RunError(f"{path} is not there; write it again with run.export({limit.text!r})")
        layers = {name: LayerSpec.from_json(spec).label for name, spec in body["allocation"]["layers"].items()}
        sizes = float(body["bits_per_weight"]), path.stat().st_size
        return Best(limit.text, path, *sizes, mean, tested["mean"] if tested else None, layers, self)

    def predict(self, layers: Mapping[str, str]) -> tuple[float, float]:
        """What the model of accuracy believes of an allocation, trained or not. It is fitted anew at every call.

        Args:
            layers: layer name -> entry of its menu, as in `Best.layers`.

        Returns:
            Mean and standard deviation of what many seeds of the search's trainings would average to, in the unit of
            those: a fraction, for accuracies. Where nothing but a shared network was measured, minus its loss.

        Raises:
            UsageError: a searched layer is missing, its menu has no such entry (a uniform model may lie outside the
                menus), or tied layers differ.
            RunError: nothing was measured yet, or sensitivity.json is damaged or of another search.
        """
        space = plan_of_run(Question.from_run(self.record), self.given).space
        model = model_of_run(space, self.record)
        mean, deviation = model.predict([model.space.labelled(layers)])
        is_accuracy = MetricWords.of(self.question) == ACCURACY  # a sum of curves knows no 100 %
        return min(float(mean[0]), 1.0) if is_accuracy else float(mean[0]), float(deviation[0])

    def export(self, budget: str = "", trial: int | None = None, to: str | Path | None = None) -> Path:
        """Write any allocation that was trained; see `fs.export`."""
        return exporting.export(self.folder, budget, trial, to, None, self.given)

    def report(self) -> Path:
        """Write report.html and front.csv, and return the report's path."""
        return write_report(Folder.open(self.folder))  # another process may have gone on with it

    def _repr_html_(self) -> str:
        return inline_html(self.record)

    def __str__(self) -> str:
        words = MetricWords.of(self.question)
        entries = (self.summary() or {}).get("budgets", [])
        found = [
            f"{one['budget']}: {words.text(one['val_accuracy']['mean'])}, {one['file_bytes']:,} B" for one in entries
        ]
        return f"run in {self.folder}; {'; '.join(found) or 'nothing was chosen yet'}"
