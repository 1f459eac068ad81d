"""What a run came to: the chosen model of each budget beside uniform and full precision; the test set read once."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexor_search.errors import RunError
from flexor_search.files import write_atomically, write_json
from flexor_search.packing import FileBytes, inspect_file, verify_file
from flexor_search.planning import Budget, SearchSpace, file_layout, full_precision, nearest_uniform
from flexor_search.runs import ACCURACY, CONFIRM, FULL_PRECISION, READINGS, Measurement, MetricWords, Run
from flexor_search.tuning.confirm import Group, choose, groups
from flexor_search.tuning.fitted import allocation_of
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer


class TestReadings:
    """Every reading of the test set, in test_readings.json: each trained model is scored on it once, ever."""

    __test__ = False  # not a test class, whatever its name starts with

    def __init__(self, run: Run, measurer: Measurer) -> None:
        self._path, self._measurer = run.folder / READINGS, measurer
        self._known: dict[str, float] = {}
        if self._path.exists():
            try:
                self._known = json.loads(self._path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunError(f"{self._path} is damaged: {error}; delete it to read the test set again") from error

    def accuracy(self, measurement: Measurement) -> float:
        """Test accuracy of the packed file of a measurement."""
        key = f"{measurement.number} {measurement.digest} seed {measurement.seed}"  # a number may be taken again
        if key not in self._known:
            self._known[key] = self._measurer.test_accuracy(measurement)
            write_json(self._path, self._known)
        return self._known[key]


def summarize(
    space: SearchSpace,
    budgets: Sequence[Budget],
    measurer: Measurer,
    seeds: Sequence[int],
    observer: Observer,
    *,
    complete: bool,
    strategy: str = "",
) -> dict[str, Any]:
    """Choose, ship and describe a model for each budget.

    Writes model-BUDGET.safetensors, allocation-BUDGET.json and summary.json. What an earlier call confirmed and shipped
    stays as it is when a later one is interrupted: nothing better is known by then. Budgets that are not asked for any
    more are kept under "earlier".

    Args:
        space: the menus.
        budgets: those asked for.
        measurer: gives the run, the data and the device.
        seeds: of the confirmation.
        observer: is told what is shipped.
        complete: whether the run came to its end; the test set is read only then.
        strategy: that was followed; "": not told.

    Returns:
        The summary, as in summary.json.

    Raises:
        RunError: nothing that fits a budget has finished; the others are shipped and described.
    """
    run = measurer.run
    try:
        before = _confirmed_before(run)
    except RunError:  # it is damaged, and about to be written anew
        observer.message(f"{run.folder / 'summary.json'} is damaged; it is written anew from the measurements")
        before = {}
    readings = TestReadings(run, measurer) if complete else None
    entries, missing = [], []
    for budget in budgets:
        if not complete and budget.text in before:
            entries.append(before[budget.text])
            continue
        group = choose(space, budget, run, seeds, confirmed=complete)
        if group is None:
            missing.append(budget.text)
            continue
        phase = group.first.phase  # what stands beside it was trained as it was
        beside = {one.first.digest: one for one in groups(run, phase, seeds if phase == CONFIRM else None)}
        full = beside.get(full_precision(space.model).digest)
        uniform = nearest_uniform(space, budget)
        uniform_group = beside.get(uniform.digest) if uniform else None
        entry: dict[str, Any] = {"budget": budget.text} | _describe(space, group, readings)
        entry["file"] = ship(run, group.best, budget.text, entry["allocation"]).to_json()
        entry["packing"] = run.packing(group.best.number)
        entry["uniform"] = _describe(space, uniform_group, readings) if uniform_group else None
        entry["full_precision"] = _describe(space, full, readings) if full else None
        entries.append(entry)
        observer.message(f"{budget.text}: {group.first.label} shipped, packed file verified")
        for line in packing_warnings(entry["packing"], MetricWords.of(run.question)):
            observer.message(f"{budget.text}: {line}")
    asked = {budget.text for budget in budgets}
    is_whole = not missing and (complete or asked <= before.keys())
    summary: dict[str, Any] = {"state": "complete" if is_whole else "interrupted", "budgets": entries}
    if strategy:
        summary["strategy"] = strategy
    if earlier := [entry for text, entry in before.items() if text not in asked]:
        summary["earlier"] = earlier
    if entries or earlier:
        run.write_summary(summary)
    if missing:
        raise RunError(
            f"no training that fits {', '.join(missing)} has finished ({_failures(run)}); "
            f"go on with: flexor-search resume {run.folder}"
        )
    return summary


def _confirmed_before(run: Run) -> dict[str, dict[str, Any]]:
    """Entries of summary.json that were confirmed, so the test set was read for them, and whose models are there."""
    return {
        entry["budget"]: entry
        for entry in run.chosen()
        if entry["test_accuracy"] is not None and (run.folder / f"model-{entry['budget']}.safetensors").is_file()
    }


def packing_lines(packing: dict[str, Any] | None) -> list[str]:
    """What each economy of a packed file saved, and what it changed."""
    lines = []
    for step in (packing or {"steps": []})["steps"]:
        change = f"logits within {step['logit_difference']:.1e} of the largest" if step["tolerance"] else "bit for bit"
        lines.append(f"{step['what']}: {step['saved_bytes']:,} bytes saved, {change}")
    return lines


def packing_warnings(packing: dict[str, Any] | None, words: MetricWords = ACCURACY) -> list[str]:
    """What rounding to the kept dtype changed by more than it should; the file stays as small as it was planned."""
    if packing is None:
        return []
    steps = {step["name"]: step for step in packing["steps"]}
    remedy = f'kept_dtype = "float32" in the space file avoids it, for {steps["rounding"]["saved_bytes"]:,} bytes more'
    lines = []
    if not packing["kept_dtype_holds"]:
        before, after = words.number(packing["val_accuracy_trained"]), words.text(packing["val_accuracy_packed"])
        lines.append(f"{packing['kept_dtype']} costs validation {words.name}: {before} to {after}; {remedy}")
    if not steps["rounding"]["within"]:
        share = steps["rounding"]["logit_difference"]
        lines.append(f"{packing['kept_dtype']} moves a logit by {share:.1e} of the largest; {remedy}")
    return lines


def ship(run: Run, measurement: Measurement, budget_text: str, allocation: dict[str, Any]) -> FileBytes:
    """Copy the packed model of a measurement to its place and check it there, byte for byte.

    The proof against the trained model was made when it was trained; the file's SHA-256 carries it over.

    Returns:
        Where its bytes go.

    Raises:
        FormatError, VerificationError: the copy is not what was proven.
    """
    target = run.folder / f"model-{budget_text}.safetensors"
    copy_trained(run, measurement, target)
    write_json(run.folder / f"allocation-{budget_text}.json", allocation)
    return inspect_file(target)


def copy_trained(run: Run, measurement: Measurement, target: Path) -> None:
    """Copy the packed model of a measurement and check the copy.

    Raises:
        RunError: its file was lost, or the target cannot be written.
    """
    source = run.trained_path(measurement.number)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise RunError(
            f"{source} cannot be read ({error.strerror or error}); train it again: flexor-search resume {run.folder}"
        ) from error
    write_atomically(target, content)
    verify_file(target)


def _describe(space: SearchSpace, group: Group, readings: TestReadings | None) -> dict[str, Any]:
    allocation, is_full = allocation_of(space, group.first), group.first.kind == FULL_PRECISION
    file_bytes = space.model.float_bytes if is_full else file_layout(allocation, space.model_name).file_bytes
    tested = [readings.accuracy(m) for m in group.measurements] if readings else []
    seeds = [m.seed for m in group.measurements]
    return {
        "bits_per_weight": allocation.bits_per_weight,
        "payload_bits": allocation.weight_bits if is_full else allocation.payload_bits,
        "file_bytes": file_bytes,
        "file_bits_per_weight": round(8 * file_bytes / space.model.n_weights, 4),
        "nominal_bits_per_weight": round(allocation.nominal_bits_per_weight, 4),
        "val_accuracy": _spread([m.val_accuracy for m in group.measurements], seeds),
        "test_accuracy": _spread(tested, seeds) if tested else None,
        "test_accuracy_shipped": readings.accuracy(group.best) if readings else None,
        "verified": True,  # every finished training was packed, read back and proven when it was made
        "allocation": allocation.to_json(),
    }


def _spread(values: list[float], seeds: list[int]) -> dict[str, Any]:
    return {
        "mean": round(statistics.fmean(values), 6),
        "std": round(statistics.stdev(values), 6) if len(values) > 1 else None,
        "seeds": seeds,
    }


def _failures(run: Run) -> str:
    reasons = {m.reason for m in run.measurements if m.reason}
    return f"reasons: {'; '.join(sorted(reasons)[:2])}" if reasons else "none was begun"
