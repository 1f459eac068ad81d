"""Train several models at a time on one GPU: in turn a step of each, every model on a stream of its own.

A small model's kernels leave most of a GPU idle. A step that was recorded is launched at once, and what other models
have launched runs beside it. Measured (docs/log.md), this is faster than one model with grouped convolutions, which
asks the models to be alike and runs kernels that nobody tuned; here each model trains as it would alone, to the same
values, and one that is stopped or fails is not missed by the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.planning import Recipe
from flexor_search.training.checkpoint import Checkpoint
from flexor_search.training.images import TrainImages
from flexor_search.training.score import TrainResult, Watch, seeded
from flexor_search.training.trainer import Training, placed
from flexor_search.workloads import NO_OWN, Data, Own


def train_together(
    models: Sequence[nn.Module],
    data: Data,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: str = "cpu",
    on_epoch: Sequence[Watch | None] | None = None,
    route: str = "",
    checkpoints: Sequence[Checkpoint | None] | None = None,
    own: Own = NO_OWN,
    teachers: Sequence[nn.Module | None] | None = None,
) -> list[TrainResult | TrainingError]:
    """Train models in place, a step of each in turn.

    Args:
        models: of any structure each.
        data: `train` is learned from, `validation` scored; `test` is not touched.
        recipe: how, for all.
        seeds: of the order of images, one a model. Dropout draws from one generator for all of them: other numbers than
            a model alone would, others again after a restart from checkpoints, and on a GPU, where recorded steps of
            several streams read that generator at the same time, others every time.
        device: "cpu" (which gains nothing by it), "cuda", ...
        on_epoch: one a model, as in `train`.
        route: how a step is done, as in `train`.
        checkpoints: one a model, as in `train`.
        own: may hold a metric; a loop of one's own trains one model at a time.
        teachers: one a model, as in `train`.

    Returns:
        For each model its result, or the error that ended it: one whose loss is not a number fails alone. Its
        `train_seconds` are its share of the time. All are left in evaluation mode.
    """
    if own.train is not None:
        raise ValueError("own: a loop of one's own trains one model at a time; use `train` for each")
    watches: Sequence[Watch | None] = on_epoch if on_epoch is not None else [None] * len(models)
    places: Sequence[Checkpoint | None] = checkpoints if checkpoints is not None else [None] * len(models)
    taught: Sequence[nn.Module | None] = teachers if teachers is not None else [None] * len(models)
    if not len(models) == len(seeds) == len(watches) == len(places) == len(taught):
        raise ValueError(
            f"seeds, on_epoch, checkpoints, teachers: give one a model, got {len(seeds)}, {len(watches)}, "
            f"{len(places)} and {len(taught)} for {len(models)} models"
        )
    results: dict[int, TrainResult | TrainingError] = {}
    data = replace(data, train=TrainImages.of(data.train, recipe, device).split)  # placed once, not by each
    with seeded(seeds[0] if seeds else 0):
        members: list[_Member] = []
        for index, model in enumerate(models):
            own_stream = _own_stream(device)
            with own_stream:
                training = Training(
                    *(placed(model, data, recipe, device), data, recipe, seeds[index], device),
                    *(watches[index], route, places[index]),
                    own=own,
                    teacher=taught[index],
                )
            members.append(_Member(index, training, training.stepwise(), own_stream))
        for member in members:
            member.training.start_clock()  # building the others is not its time
        while members:
            for member in members:
                member.training.take_turns(len(members))
            left = _take_turns(members, results)
            members = [member for member in members if member.index not in left]
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    for model in models:
        model.eval()
    return [results[index] for index in range(len(models))]


@dataclass(frozen=True)
class _Member:
    index: int
    training: Training
    steps: Iterator[TrainResult | None]
    own_stream: AbstractContextManager


def _take_turns(members: Sequence[_Member], results: dict[int, TrainResult | TrainingError]) -> set[int]:
    """A step of each in turn until some end; their results are noted, and their indices returned."""
    left: set[int] = set()
    while not left:
        for member in members:
            try:
                with member.own_stream:
                    result = next(member.steps)
            except TrainingError as error:
                result = error
            if result is not None:
                results[member.index] = result
                left.add(member.index)
    return left


def _own_stream(device: str) -> AbstractContextManager:
    """A context, to be entered again and again, in which work goes to a stream of its own; none but on a GPU."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)
