"""The command line: parses and calls, no logic. Imports are late, so that --help answers at once.

Data go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import json
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexor_search import __version__
from flexor_search.characters import write_anywhere
from flexor_search.completing import run_folders
from flexor_search.errors import FlexorError, UsageError
from flexor_search.files import is_about_the_disk
from flexor_search.interrupts import interrupt
from flexor_search.options import asks

if TYPE_CHECKING:
    from flexor_search.asking import Question
    from flexor_search.runs import Run

app = typer.Typer(
    name="flexor-search",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the most accurate fractional-bit model of a PyTorch classifier under a size budget.\n\n"
    "flexor-search --budget 0.7bpw searches on the built-in workload; the commands below do the rest.",
)

ConfigOption = Annotated[str, typer.Option(help="TOML file of the question, as init writes it; options win over it.")]
OutOption = Annotated[str, typer.Option(help="Run folder; default a new one under runs/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no messages.")]
TensorBoardOption = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard scalars to RUN/tensorboard.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", autocompletion=run_folders)]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Packed file.")]


@app.callback(invoke_without_command=True)
@asks("search")
def search(
    context: typer.Context,
    asked: dict[str, Any],
    config: ConfigOption = "",
    out: OutOption = "",
    tensorboard: TensorBoardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Find the most accurate fractional-bit model of a PyTorch classifier under a size budget."""
    if show_version:
        print(f"flexor-search {__version__}")
        return
    if context.invoked_subcommand is not None:
        misplaced = [option.opts[0] for option in context.command.params if _was_given(context, option.name)]
        if misplaced:
            raise UsageError(
                f"{misplaced[0]}: options of a command go behind it: flexor-search {context.invoked_subcommand} ..."
            )
        return
    question = _question(asked, config).needs_budget()
    from flexor_search.terminal import watching

    with watching(quiet) as observer:
        from flexor_search import api
        from flexor_search.question import default_folder

        folder = Path(out) if out else default_folder(question)
        with _scalars(observer, folder, tensorboard) as watcher:
            run = _finished(lambda: api.search(question, folder, watcher), folder)
    _show(run, as_json)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to; default question.toml.")] = Path(
        "question.toml"
    ),
) -> None:
    """Write a question file for --config, with every key, its default and what it means."""
    from flexor_search.config import write_question

    print(write_question(file, {}))


@app.command()
@asks("plan")
def plan(asked: dict[str, Any], config: ConfigOption = "", as_json: JsonOption = False) -> None:
    """Print every layer with what it may take and cost, and the reachable sizes; trains nothing."""
    question = _question(asked, config)
    from flexor_search.question import plan_tables
    from flexor_search.terminal import print_plan

    tables = plan_tables(question)
    if as_json:
        print(json.dumps(tables, indent=2))
    else:
        print_plan(tables)


@app.command()
@asks("resume")
def resume(
    run: RunArgument,
    asked: dict[str, Any],
    tensorboard: TensorBoardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a run to its target, or to new ones; nothing that was finished is trained again."""
    from flexor_search.terminal import watching

    with watching(quiet) as observer:
        from flexor_search import api

        with _scalars(observer, run, tensorboard) as watcher:
            found = _finished(lambda: api.resume(run, watcher, **asked), run)
    _show(found, as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", autocompletion=run_folders)],
    out: Annotated[str, typer.Option(help="File of the comparison; default comparison.html in the first run.")] = "",
    tensorboard: TensorBoardOption = False,
) -> None:
    """Write report.html and front.csv of a run, finished or not; of several, their fronts over each other."""
    if out and len(runs) < 2:
        raise UsageError("out: a single run's report lies in its folder; --out is for a comparison of several")
    from flexor_search.reporting import write_comparison, write_report
    from flexor_search.reporting.scalars import write_scalars
    from flexor_search.runs import Run

    opened = [Run.open(run) for run in runs]
    if tensorboard:
        for run in opened:
            print(write_scalars(run))
    if len(opened) > 1:
        print(write_comparison(opened, Path(out) if out else None))
    else:
        print(write_report(opened[0]))


@app.command()
def export(
    run: RunArgument,
    budget: Annotated[str, typer.Option(help="The best that was trained and fits; default the run's budget.")] = "",
    trial: Annotated[int | None, typer.Option(help="Or the training of this number.", min=0)] = None,
    to: Annotated[
        str, typer.Option(help="Path ending in .safetensors, .onnx or .v, or a folder; default in the run folder.")
    ] = "",
    quiet: QuietOption = False,
) -> None:
    """Write, verified, any allocation that a run trained: packed, as ONNX, as Verilog, or as a folder."""
    from flexor_search.terminal import watching

    with watching(quiet) as observer:
        from flexor_search import api

        path = api.export(run, budget, trial, to or None, observer)
    print(path)


@app.command()
def verify(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check a packed file, a folder that holds one, ONNX, or Verilog (with iverilog), and say what was checked."""
    from flexor_search import api

    passed = api.verify(file).passed
    if as_json:
        print(json.dumps({"file": str(file), "verified": True, "checked": passed}))
    else:
        print(f"{file}: verified", *(f"  - {text}" for text in passed), sep="\n")


@app.command()
def inspect(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show where every byte of a packed file goes, layer by layer."""
    from flexor_search.packing import inspect_file, weights_path

    found = inspect_file(weights_path(file))
    if as_json:
        print(json.dumps({"file": str(file)} | found.to_json(), indent=2))
        return
    from flexor_search.terminal import print_bytes

    print_bytes(found)


@app.command()
def study(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a study.toml, as in studies/.")],
    data_dir: Annotated[str, typer.Option(help="Folder of the data.")] = "",
    out: Annotated[str, typer.Option(help="Folder of the results; default the study's own.")] = "",
    seeds: Annotated[int, typer.Option(help="Trainings of each row; 0: as many as the study says.")] = 0,
    rows: Annotated[list[str] | None, typer.Option("--row", help="Only this row; may be given again.")] = None,
    seconds: Annotated[float, typer.Option(help="Leave off after so many; the same command goes on. 0: no limit.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of every training, to try it out; 0: the recipes'.")] = 0,
    images: Annotated[int, typer.Option(help="For training, to try it out; 0: all.")] = 0,
    jobs: Annotated[int, typer.Option(help="Trainings at a time; 0: as many as is fastest.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train all rows of a study, resumably, and write its table beside the published one."""
    from flexor_search.studying import StudyQuestion, run_study
    from flexor_search.terminal import logs_told

    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    asked = StudyQuestion(
        *(str(folder), out, data_dir, epochs, images, seeds, tuple(rows or ()), seconds, jobs, device)
    )
    with nullcontext() if quiet else logs_told():
        run_study(asked, tell)
    if (table := asked.results / "table.md").exists():  # a call that ends within a search has none yet
        print(table.read_text(encoding="utf-8"), end="")


def main() -> None:
    """Run the command line; every error a user can cause becomes one line and an exit code."""
    # Before torch loads OpenMP: threads that wait must sleep, not spin. Where another process wants the cores, spinning
    # made a training ten times slower (docs/log.md); sleeping costs a few percent where none does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, interrupt)
    write_anywhere()
    try:
        status = app(standalone_mode=False)
    except FlexorError as error:
        _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except MemoryError:
        _fail("the memory does not last; end other programs, or ask for a smaller batch in a --recipe", 1)
    except Exception as error:
        if isinstance(error, OSError) and is_about_the_disk(error):
            place = f" {error.filename}" if error.filename else ""
            _fail(f"cannot write{place}: {error.strerror}; free space or choose another folder", 1)
        if not hasattr(error, "exit_code"):
            raise
        _fail_parsing(error)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _question(asked: dict[str, Any], config: str) -> "Question":
    """What is asked; what the command line says wins over the file."""
    from flexor_search.asking import Question

    if not config:
        return Question(**asked)
    from flexor_search.config import read_config

    return Question(**(read_config(config) | asked))


def _was_given(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name != "DEFAULT"


def _scalars(observer: Any, folder: Path, wanted: bool) -> AbstractContextManager[Any]:
    """The observer, with TensorBoard scalars beside it if they are wanted."""
    if not wanted:
        return nullcontext(observer)
    from flexor_search.live import scalars_too

    return scalars_too(observer, folder)


def _finished(work: Any, folder: Path) -> "Run":
    """Run the search; when interrupted, say where what was found is."""
    try:
        return work()
    except KeyboardInterrupt:
        begun = (folder / "run.toml").exists()
        found = (
            f"what was found is in {folder}; go on with: flexor-search resume {folder}"
            if begun
            else "nothing was begun"
        )
        print(f"flexor-search: interrupted; {found}", file=sys.stderr)
        raise


def _show(run: "Run", as_json: bool) -> None:
    summary = run.summary()
    if as_json:
        print(json.dumps({"run": str(run.folder)} | (summary or {}), indent=2))
        return
    from flexor_search.terminal import print_results

    print_results(run)


def _fail_parsing(error: Any) -> None:
    """Errors of the option parser: one line, with its suggestion, and exit code 2."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    _fail(" ".join(message.split()), int(error.exit_code))


def _fail(message: str, code: int) -> None:
    print(f"flexor-search: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)
