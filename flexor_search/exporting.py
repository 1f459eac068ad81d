"""Every format a model is stored in: write any allocation that a run trained, and verify what lies there.

A new format is one file in packing/ and one line in FORMATS: the packed file, a folder, ONNX, Verilog so far.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flexor_search.errors import RunError, UsageError, nearest
from flexor_search.packing import Checks, load, save_folder, save_verilog, unpack_into, verify_file, weights_path
from flexor_search.planning import Budget
from flexor_search.question import Question, plan
from flexor_search.runs import DONE, Measurement, Run
from flexor_search.tuning import (
    Observer,
    Silent,
    choose,
    copy_trained,
    packing_lines,
    packing_warnings,
    ship,
)

PROBE_IMAGES = 16
"""Validation images that an ONNX file's logits are compared on."""


@dataclass(frozen=True)
class Trained:
    """A training whose packed file is to be written in another format.

    Attributes:
        run: it belongs to.
        measurement: which one.
        question: of the run.
    """

    run: Run
    measurement: Measurement
    question: Question


def export(
    folder: str | Path,
    budget: str = "",
    trial: int | None = None,
    to: str | Path | None = None,
    observer: Observer | None = None,
) -> Path:
    """Write any allocation that a run trained.

    Args:
        folder: of the run.
        budget: the best that fits it: of those confirmed, else of the search's own trainings. Default the run's budget,
            if it has one alone.
        trial: or the training of this number.
        to: where to write; its ending chooses the format: .safetensors (packed), .onnx (decodes itself), .v (decoders
            in Verilog, and their test bench next to it), or none for a folder of config.json and model.safetensors.
            Default model-BUDGET.safetensors or model-trial-N.safetensors in the run folder.
        observer: is told what the packing saved.

    Returns:
        The path written; what lies there has been verified.

    Raises:
        UsageError: both of budget and trial, a trial that was not finished, or an ending that is no format.
        RunError: nothing that fits has been trained.
        VerificationError: what was written does not give the packed model.
    """
    run, observer = Run.open(folder), observer or Silent()
    question = Question.from_run(run)
    write = _format_of(Path(to)).write if to is not None else None
    if trial is not None:
        if budget:
            raise UsageError("export: give either --budget or --trial, not both")
        chosen, name = _finished(run, trial), f"trial-{trial}"
    else:
        limit = _budget(run, budget)
        chosen, name = _best_fitting(run, question, limit), limit.text
    if to is None or write is None:
        ship(run, chosen, name, json.loads(chosen.allocation))
        path = run.folder / f"model-{name}.safetensors"
    else:
        path = Path(to)
        write(Trained(run, chosen, question), path)
    packing = run.packing(chosen.number)
    for line in (*packing_lines(packing), *packing_warnings(packing)):
        observer.message(line)
    return path


def verify(path: str | Path) -> Checks:
    """Check a file by itself: a packed one, a folder that holds one, or an ONNX file.

    Args:
        path: of the file or folder. What has no ending of ours is read as a packed file.

    Returns:
        What was checked.

    Raises:
        UsageError: a Verilog file, which its own test bench checks.
        FormatError: the file is damaged, or not ours.
        VerificationError: it does not decode as the reference does.
    """
    path = Path(path)
    return FORMATS.get(_ending(path), FORMATS[".safetensors"]).verify(path)


def _to_safetensors(trained: Trained, target: Path) -> None:
    copy_trained(trained.run, trained.measurement, target)


def _to_folder(trained: Trained, target: Path) -> None:
    source = trained.run.trained_path(trained.measurement.number)
    own = trained.question.model
    save_folder(source, target, {"model": own} if own else {"workload": load(source).model_name})


def _to_onnx(trained: Trained, target: Path) -> None:
    """Needs the model's code and a few images: the graph is traced, and its logits are compared with torch's."""
    from flexor_search.packing.onnx_file import save_onnx
    from flexor_search.packing.onnx_verify import prove_onnx

    task = plan(trained.question).workload
    data = task.load(Path(trained.question.data_dir) if trained.question.data_dir else None)
    images, _ = data.validation.batch(slice(0, PROBE_IMAGES))
    packed = load(trained.run.trained_path(trained.measurement.number))
    unproven = target.with_name(f".unproven-{target.name}")
    try:
        save_onnx(packed, task.build(), images[:2], unproven)
        prove_onnx(unproven, packed, unpack_into(packed, task.build()), images)
        unproven.replace(target)
    finally:
        unproven.unlink(missing_ok=True)


def _to_verilog(trained: Trained, target: Path) -> None:
    save_verilog(load(trained.run.trained_path(trained.measurement.number)), target)


def _verify_packed(path: Path) -> Checks:
    return verify_file(weights_path(path))


def _verify_onnx(path: Path) -> Checks:
    from flexor_search.packing.onnx_verify import verify_onnx

    return verify_onnx(path)


def _verify_verilog(path: Path) -> Checks:
    bench = path.with_name(f"{path.stem}_tb.v")
    raise UsageError(
        f"verify: {path} is Verilog, which its test bench checks; run it: "
        f"iverilog -g2012 -o {path.stem}_tb {path} {bench} && vvp -n {path.stem}_tb"
    )


@dataclass(frozen=True)
class Format:
    """A way to store a model.

    Attributes:
        write: writes a training to a path; what lies there then has been verified.
        verify: checks what lies there by itself.
    """

    write: Callable[[Trained, Path], None]
    verify: Callable[[Path], Checks]


FORMATS = {
    ".safetensors": Format(_to_safetensors, _verify_packed),
    ".onnx": Format(_to_onnx, _verify_onnx),
    ".v": Format(_to_verilog, _verify_verilog),
    "": Format(_to_folder, _verify_packed),
}
"""By the ending of a path."""


def _ending(path: Path) -> str:
    return "" if path.is_dir() else path.suffix


def _format_of(target: Path) -> Format:
    ending = _ending(target)
    if ending not in FORMATS:
        known = nearest(ending, [known for known in FORMATS if known])
        raise UsageError(f"to: {target.name!r} ends in no format of ours; {known}, or no ending for a folder")
    return FORMATS[ending]


def _budget(run: Run, text: str) -> Budget:
    """The budget asked for, or the only one that the run has."""
    own = [str(budget) for budget in run.question.get("budgets") or []]
    if not text and len(own) != 1:
        raise UsageError(f"export: the run has the budgets {', '.join(own)}; give one as --budget, or a --trial")
    return Budget.parse(text or own[0])


def _finished(run: Run, number: int) -> Measurement:
    found = next((m for m in run.measurements if m.number == number), None)
    if found is None:
        raise UsageError(f"trial: the run has no trial {number}; it has 0 to {len(run.measurements) - 1}")
    if found.state != DONE or not run.trained_path(number).exists():
        raise UsageError(f"trial: trial {number} was {found.state} ({found.reason}) and left no model; choose another")
    return found


def _best_fitting(run: Run, question: Question, budget: Budget) -> Measurement:
    space = plan(replace(question, budget=budget.text)).space
    group = choose(space, budget, run)
    if group is not None:
        return group.best
    sizes = sorted({m.bits_per_weight for m in run.measurements if m.state == DONE})
    raise RunError(
        f"no trained model of {run.folder} fits {budget.text}; bits per weight trained: "
        f"{', '.join(f'{size:g}' for size in sizes[:8]) or 'none'}; search again with that budget: "
        f"flexor-search resume {run.folder} --budget {budget.text}"
    )
