"""Every format a model is stored in: write any allocation that a run trained, and verify what lies there.

A new format is one file in packing/ and one line in FORMATS: the packed file, a folder, ONNX, Verilog so far.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flexor_search.asking import Question
from flexor_search.errors import RunError, UsageError, nearest
from flexor_search.files import write_atomically, write_error
from flexor_search.fingerprint import refuse_other_code
from flexor_search.packing import (
    Checks,
    load,
    save_folder,
    save_verilog,
    simulate,
    unpack_into,
    verify_file,
    weights_path,
)
from flexor_search.planning import Allocation, Budget, SearchSpace, file_layout
from flexor_search.question import plan_of_run
from flexor_search.runs import CONFIRM, DONE, SEARCH, Measurement, MetricWords, Run
from flexor_search.tuning import (
    Group,
    Observer,
    Silent,
    allocation_of,
    choose,
    copy_trained,
    groups,
    packing_lines,
    packing_warnings,
    ship,
)
from flexor_search.workloads import Given, Workload

PROBE_IMAGES = 16
"""Validation images that an ONNX file's logits are compared on."""


@dataclass(frozen=True)
class Trained:
    """A training whose packed file is to be written in another format.

    Attributes:
        run: it belongs to.
        measurement: which one.
        question: of the run.
        observer: is told what cannot be checked here.
        given: model and data of the run, where they were objects.
    """

    run: Run
    measurement: Measurement
    question: Question
    observer: Observer
    given: Given | None = None


def export(
    folder: str | Path,
    budget: str = "",
    trial: int | None = None,
    to: str | Path | None = None,
    observer: Observer | None = None,
    given: Given | None = None,
) -> Path:
    """Write any allocation that a run trained.

    Args:
        folder: of the run.
        budget: the best that fits it: of those confirmed, else of the search's own trainings. Default the run's budget,
            if it has one alone.
        trial: or the training of this number.
        to: where to write; its ending chooses the format: .safetensors (packed), .onnx (decodes itself), .v (decoders
            in Verilog, and their test bench next to it), or none, or a slash, for a folder of config.json and
            model.safetensors. Folders that are not there are made.
            Default model-BUDGET.safetensors or model-trial-N.safetensors in the run folder.
        observer: is told what the packing saved.
        given: model and data of the run, where they were given as objects.

    Returns:
        The path written; what lies there has been verified.

    Raises:
        UsageError: both of budget and trial, a trial that was not finished, or an ending that is no format.
        RunError: nothing that fits has been trained.
        VerificationError: what was written does not give the packed model.
    """
    run, observer = Run.open(folder), observer or Silent()
    question = Question.from_run(run)
    form = format_of(to) if to is not None else None
    if trial is not None:
        if budget:
            raise UsageError("export: give either --budget or --trial, not both")
        chosen, name = _finished(run, trial), f"trial-{trial}"
    else:
        limit = budget_of(run, budget)
        chosen, name = best_fitting(run, limit, given).best, limit.text
    if to is None or form is None:
        ship(run, chosen, name, json.loads(chosen.allocation))
        path = run.folder / f"model-{name}.safetensors"
    else:
        path = Path(to)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        form.write(Trained(run, chosen, question, observer, given), path)
    packing = run.packing(chosen.number)
    for line in (*packing_lines(packing), *packing_warnings(packing, MetricWords.of(run.question))):
        observer.message(line)
    return path


def workload_of(run: Run, question: Question, given: Given | None = None) -> Workload:
    """The workload of a run, whose model is what was measured.

    Raises:
        RunError: the model's code has changed since, or it was given as an object and is not given now.
    """
    task = plan_of_run(question, given).workload
    refuse_other_code(run.fingerprint, task.build, run.folder)
    return task


def _to_safetensors(trained: Trained, target: Path) -> None:
    copy_trained(trained.run, trained.measurement, target)


def _to_folder(trained: Trained, target: Path) -> None:
    source = trained.run.trained_path(trained.measurement.number)
    own = trained.question.model
    save_folder(source, target, {"model": own} if own else {"workload": load(source).model_name})
    verify_file(weights_path(target))


def _to_onnx(trained: Trained, target: Path) -> None:
    """Needs the model's code and a few images: the graph is traced, and its logits are compared with torch's."""
    from flexor_search.packing.onnx_file import save_onnx
    from flexor_search.packing.onnx_verify import prove_onnx

    task = workload_of(trained.run, trained.question, trained.given)
    data = task.load(Path(trained.question.data_dir) if trained.question.data_dir else None)
    images, _ = data.validation.batch(slice(0, PROBE_IMAGES))
    packed = load(trained.run.trained_path(trained.measurement.number))
    with tempfile.TemporaryDirectory() as folder:  # nothing that is not proven has the target's name
        unproven = Path(folder) / "model.onnx"
        save_onnx(packed, task.build(), images[:2], unproven)
        prove_onnx(unproven, packed, unpack_into(packed, task.build()), images)
        write_atomically(target, unproven.read_bytes())


def _to_verilog(trained: Trained, target: Path) -> None:
    save_verilog(load(trained.run.trained_path(trained.measurement.number)), target)
    try:
        trained.observer.message("; ".join(simulate(target).passed))
    except UsageError as error:  # no simulator here: the bench is for wherever there is one
        trained.observer.message(f"{target} was not simulated: {error}")


def _verify_packed(path: Path) -> Checks:
    return verify_file(weights_path(path))


def _verify_onnx(path: Path) -> Checks:
    from flexor_search.packing.onnx_verify import verify_onnx

    return verify_onnx(path)


@dataclass(frozen=True)
class Format:
    """A way to write a trained allocation.

    Attributes:
        write: makes the file or folder, and checks what it made.
        verify: checks it by itself, years later.
    """

    write: Callable[[Trained, Path], None]
    verify: Callable[[Path], Checks]


FORMATS = {
    ".safetensors": Format(_to_safetensors, _verify_packed),
    ".onnx": Format(_to_onnx, _verify_onnx),
    ".v": Format(_to_verilog, simulate),
    "": Format(_to_folder, _verify_packed),
}
"""The ending of a path -> its format; none is a folder."""


def format_of(target: str | Path) -> Format:
    """The format that a path's ending names.

    Raises:
        UsageError: it ends in none.
    """
    ending = "" if Path(target).is_dir() or str(target).endswith("/") else Path(target).suffix
    if ending not in FORMATS:
        known = nearest(ending, [known for known in FORMATS if known])
        raise UsageError(f"to: {str(target)!r} ends in no format of ours; {known}; a folder's name may end in a slash")
    return FORMATS[ending]


def verify(path: str | Path) -> Checks:
    """Check what `export` wrote: a packed file, a folder that holds one, an ONNX file, or decoders in Verilog.

    Returns:
        What was checked.

    Raises:
        FormatError: the file is damaged, or none of ours.
        VerificationError: it does not decode as it should.
        UsageError: Verilog, where no simulator is installed.
    """
    path = Path(path)
    ending = path.suffix if path.suffix in FORMATS and not path.is_dir() else ""
    return FORMATS[ending].verify(path)


def budget_of(run: Run, text: str) -> Budget:
    """The budget asked for, or the only one that the run has.

    Raises:
        UsageError: none was asked for, and the run has several.
    """
    own = [str(budget) for budget in run.question.get("budgets") or []]
    if not text and len(own) != 1:
        raise UsageError(f"budget: the run has the budgets {', '.join(own)}; name one, or a trial")
    return Budget.parse(text or own[0])


def _shipped(space: SearchSpace, budget: Budget, run: Run) -> Group | None:
    """The trainings that summary.json has chosen for a budget; None where it has not."""
    for entry in run.chosen():
        own = Budget.parse(entry["budget"])
        if own.key != budget.key:
            continue
        digest = Allocation.from_json(space.model, entry["allocation"]).digest
        seeds = entry["val_accuracy"]["seeds"]
        for phase in (CONFIRM, SEARCH):
            for group in groups(run, phase, seeds):
                if group.first.digest == digest and [m.seed for m in group.measurements] == seeds:
                    return group
    return None


def _finished(run: Run, number: int) -> Measurement:
    found = next((m for m in run.measurements if m.number == number), None)
    if found is None:
        raise UsageError(f"trial: the run has no trial {number}; it has 0 to {len(run.measurements) - 1}")
    if found.state != DONE or not run.trained_path(number).exists():
        raise UsageError(f"trial: trial {number} was {found.state} ({found.reason}) and left no model; choose another")
    return found


def best_fitting(run: Run, budget: Budget, given: Given | None = None) -> Group:
    """The trainings of the best allocation that fits a budget: of those confirmed, else of the search's own.

    Args:
        run: that trained them.
        budget: any.
        given: model and data of the run, where they were given as objects.

    Raises:
        RunError: nothing that fits has been trained.
    """
    space = plan_of_run(replace(Question.from_run(run), budget=budget.text), given).space
    group = _shipped(space, budget, run) or choose(space, budget, run, confirmed=run.was_confirmed)
    if group is not None:
        predicted = file_layout(allocation_of(space, group.best), space.model_name).file_bytes
        if budget.kind != "bpw" and group.best.file_bytes != predicted:
            raise RunError(
                f"{run.folder} was made by a version whose files have other sizes, so {budget.text} cannot be "
                "promised; give the budget in bits per weight, or a --trial"
            )
        return group
    sizes = sorted({m.bits_per_weight for m in run.measurements if m.state == DONE})
    raise RunError(
        f"no trained model of {run.folder} fits {budget.text}; bits per weight trained: "
        f"{', '.join(f'{size:g}' for size in sizes[:8]) or 'none'}; search again with that budget: "
        f"flexor-search resume {run.folder} --budget {budget.text}"
    )
