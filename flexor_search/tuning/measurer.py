"""Train one allocation, pack it, prove the packed file, write it all down; never twice."""

import itertools
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexor_search.errors import FormatError, TrainingError, VerificationError
from flexor_search.packing import load, unpack_into
from flexor_search.planning import Allocation, Recipe, file_layout
from flexor_search.runs import DONE, FAILED, SEARCH, STOPPED, Measurement, Run, rungs_text
from flexor_search.training import (
    CHECKPOINT_SECONDS,
    Checkpoint,
    Score,
    Teachers,
    TrainResult,
    evaluate,
    fresh_model,
    in_halves,
    is_out_of_memory,
    say_nothing,
    train,
    train_together,
)
from flexor_search.tuning.proven import write_proven
from flexor_search.tuning.trial import Candidate, Trial
from flexor_search.workloads import NO_OWN, Data, Own
from flexor_search.workloads.own import first_line

FAILURES = (TrainingError, VerificationError, MemoryError, torch.OutOfMemoryError)
"""What ends one trial and not the run."""

Agree = Callable[[str, Callable[[], Any], Callable[[Any], bool]], Any]
"""What workers of one study must agree on: name, an offer (JSON), which earlier offers count -> the first of them."""


def alone(_name: str, offer: Callable[[], Any], _binds: Callable[[Any], bool]) -> Any:
    """Nobody has to agree."""
    return offer()


@dataclass(frozen=True)
class Measurer:
    """Measures candidates for one run.

    Attributes:
        run: where everything is written down.
        build: makes the model.
        data: its splits; `data.train` is cut to the recipe's `search_images` in the search phase.
        recipe: the full recipe; search trials use its shortened form.
        model_name: the built-in workload, "" for a user's own model.
        device: where to train.
        route: how a training step is done, one of training.step.ROUTES; "": the device's default.
        checkpoint_seconds: between two checkpoints of a training, and before its first.
        tell: is told what a training has to say: that it goes on from a checkpoint, or that its batch was halved.
        own: a training loop or a metric of the user's own.
        agree: what workers that share a study could see differently goes through it.
        teachers: folder of the models that others learn from; None: that of the run's trained models.
    """

    run: Run
    build: Callable[[], nn.Module]
    data: Data
    recipe: Recipe
    model_name: str
    device: str
    route: str = ""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    tell: Callable[[str], None] = say_nothing
    own: Own = NO_OWN
    agree: Agree = alone
    teachers: Path | None = None

    @property
    def training(self) -> tuple[Callable[[], nn.Module], Data, Recipe, str]:
        """What is trained by what, and where: build, data, recipe, device."""
        return self.build, self.data, self.recipe, self.device

    def known(self, trial: Trial) -> Measurement | None:
        """The measurement, if it was made before.

        One whose packed file was lost or damaged is made again, and so is one that was stopped early where the trial
        is to train to its end; but workers that share a study have one line for each.
        """
        found = self.run.find(trial.key)
        if found is not None and (damage := self.damage(found)):
            self.tell(f"trial {found.number} is trained again: {damage}")
            return None
        is_cut = found is not None and found.state == STOPPED and trial.weak is None and self.agree is alone
        return None if is_cut else found

    def damage(self, found: Measurement) -> str:
        """What is wrong with the packed file of a finished training, "" if nothing is."""
        if found.state == DONE:
            try:
                load(self.run.trained_path(found.number))
            except FormatError as error:
                return str(error)
        return ""

    def measure(
        self, candidate: Candidate, phase: str, seed: int, weak: Callable[[int, Score], bool] | None = None
    ) -> Measurement:
        """Train and pack a candidate, or look it up.

        Args:
            candidate: what to train.
            phase: "search" or "confirm"; sets the fidelity.
            seed: of first values and order of images.
            weak: called after each epoch with the epochs done and the validation score; returns whether to stop.

        Returns:
            The measurement, on disk; `state` tells whether it finished. A loss that is not a number, a lack of memory
            or a packed file that cannot be proven fails this one, with the reason, and nothing else.
        """
        trial = Trial(candidate, phase, seed, weak)
        return self.known(trial) or self.made(trial)

    def made(self, trial: Trial) -> Measurement:
        """The measurement of a trial that is not known: train, pack and write it down."""
        measurement = self.attempt(trial, self.free_numbers(1)[0])
        self.run.append(measurement)
        return measurement

    def free_numbers(self, count: int, taken: Collection[int] = ()) -> list[int]:
        """The lowest numbers that no measurement has, and that are not taken.

        A training that an interruption cut off left its number free, even if later ones had ended before it.
        """
        used = {m.number for m in self.run.measurements} | set(taken)
        return list(itertools.islice((number for number in itertools.count() if number not in used), count))

    def checkpoint(self, trial: Trial) -> Checkpoint:
        """Where a training is written down while it is under way; `Run.append` removes it with the trial's line."""
        return Checkpoint(self.run.unfinished_path(trial.key), self.checkpoint_seconds, [trial.key], self.tell)

    def attempt(self, trial: Trial, number: int, checkpoint: Checkpoint | None = None) -> Measurement:
        """Train and pack under a number, and write the files of that number; the run gets no line yet.

        Where the memory of a device does not last, it is tried once more with half the batch.

        Args:
            trial: what to train.
            number: of the measurement.
            checkpoint: where it is written down while it is under way; None: in the run folder.
        """
        checkpoint = checkpoint or self.checkpoint(trial)
        recipe, data = self._at_fidelity(trial.phase)
        found = self._attempt(trial, number, recipe, checkpoint)
        batch = min(recipe.batch_size, len(data.train)) // 2
        if found is not None or batch == 0:
            return found or self.failed(trial, number, "out of memory with a batch of one image")
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.tell(f"trial {number}: out of memory; it is tried once more with its batch halved to {batch}")
        found = self._attempt(trial, number, replace(recipe, batch_size=batch), checkpoint)
        note = f"batch halved to {batch}: out of memory"
        if found is None:
            return self.failed(trial, number, f"{note}, and out of memory again")
        return replace(found, reason=f"{found.reason}; {note}" if found.reason else note)

    def _attempt(self, trial: Trial, number: int, recipe: Recipe, checkpoint: Checkpoint) -> Measurement | None:
        """The same by a recipe; None where the memory of the device does not last for the training."""
        data = self._at_fidelity(trial.phase)[1]
        rungs: dict[int, float] = {}
        try:
            teacher = None if trial.is_full else self._teachers.of(data, recipe, trial.seed, self.device)
            model = self._fresh(trial, recipe, teacher)
            result = train(
                *(model, data, recipe),
                seed=trial.seed,
                device=self.device,
                on_epoch=trial.watch(rungs),
                route=self.route,
                checkpoint=checkpoint,
                own=self.own,
                teacher=teacher,
            )
        except torch.OutOfMemoryError:
            return None
        except FAILURES as error:
            return self.failed(trial, number, first_line(error), rungs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return self.failed(trial, number, first_line(error), rungs)
        return self._ended(trial, number, model, result, rungs)

    def attempt_together(self, trials: Sequence[Trial], numbers: Sequence[int]) -> list[Measurement]:
        """The same for several of one phase, side by side; half as many at a time where memory does not last."""
        return in_halves(self._side_by_side, list(zip(trials, numbers, strict=True)))

    def _side_by_side(self, numbered: Sequence[tuple[Trial, int]]) -> list[Measurement]:
        if len(numbered) == 1:
            return [self.attempt(*numbered[0])]
        trials = [trial for trial, _ in numbered]
        recipe, data = self._at_fidelity(trials[0].phase)
        rungs: list[dict[int, float]] = [{} for _ in trials]
        seeds = [trial.seed for trial in trials if not trial.is_full]
        try:
            by_seed = self._teachers.all_of(data, recipe, seeds, self.device)
        except TrainingError:  # one by one, so that who has that teacher fails alone
            return [self.attempt(*each) for each in numbered]
        teachers = [None if trial.is_full else by_seed[trial.seed] for trial in trials]
        models = [self._fresh(trial, recipe, teacher) for trial, teacher in zip(trials, teachers, strict=True)]
        results = train_together(
            *(models, data, recipe),
            seeds=[trial.seed for trial in trials],
            device=self.device,
            on_epoch=[trial.watch(seen) for trial, seen in zip(trials, rungs, strict=True)],
            route=self.route,
            checkpoints=[self.checkpoint(trial) for trial in trials],
            own=self.own,
            teachers=teachers,
        )
        return [
            self.failed(trial, number, first_line(result), seen)
            if isinstance(result, TrainingError)
            else self._ended(trial, number, model, result, seen)
            for (trial, number), model, result, seen in zip(numbered, models, results, rungs, strict=True)
        ]

    def failed(self, trial: Trial, number: int, reason: str, rungs: dict[int, float] | None = None) -> Measurement:
        """The measurement of a trial that failed, with the reason."""
        line = self._line(trial.candidate, number, trial.phase, trial.seed)
        images = len(self._at_fidelity(trial.phase)[1].train)
        return replace(line, images=images, reason=reason, rungs=rungs_text(rungs or {}))

    def _ended(
        self, trial: Trial, number: int, model: nn.Module, result: TrainResult, rungs: dict[int, float]
    ) -> Measurement:
        """The measurement of a training that came to an end, its files written if it was not stopped."""
        data = self._at_fidelity(trial.phase)[1]
        state, reason = (STOPPED, f"weak after epoch {result.epochs}") if result.stopped else (DONE, "")
        try:
            if not result.stopped:
                self._write_proven(model, trial.candidate.allocation, number, result.validation)
        except FAILURES as error:
            state, reason = FAILED, first_line(error)
        return replace(
            self._line(trial.candidate, number, trial.phase, trial.seed),
            epochs=result.epochs,
            images=len(data.train),
            state=state,
            val_accuracy=result.validation.accuracy,
            val_loss=result.validation.loss,
            rungs=rungs_text(rungs),
            train_seconds=round(result.train_seconds, 3),
            reason=reason,
        )

    def test_accuracy(self, measurement: Measurement) -> float:
        """Accuracy on the test split of the packed file of a measurement, as it would be shipped."""

        def read() -> float:
            model = unpack_into(load(self.run.trained_path(measurement.number)), self.build())
            return evaluate(model, self.data.test, device=self.device, own=self.own).accuracy

        digest, phase, seed = measurement.key
        return self.agree(f"test accuracy of {digest} {phase} {seed}", read, lambda _: True)

    def _at_fidelity(self, phase: str) -> tuple[Recipe, Data]:
        if phase != SEARCH:
            return self.recipe, self.data
        return self.recipe.for_search(), replace(self.data, train=self.data.train.take(self.recipe.search_images))

    def _fresh(self, trial: Trial, recipe: Recipe, teacher: nn.Module | None) -> nn.Module:
        return fresh_model(self.build, trial.candidate.allocation, recipe, trial.seed, teacher)

    @property
    def _teachers(self) -> Teachers:
        folder = self.teachers or self.run.folder / "trained"
        every, metric = self.checkpoint_seconds, self.own.metric
        return Teachers(self.build, folder, every_seconds=every, metric=metric, tell=self.tell)

    def _write_proven(self, model: nn.Module, allocation: Allocation, number: int, score: Score) -> None:
        validation = self.data.validation
        if self.recipe.precision != "float32":  # in which the packed model is scored
            score = evaluate(model, validation, device=self.device, own=self.own)
        write_proven(
            *(self.run, number, model, allocation),
            build=self.build,
            model_name=self.model_name,
            validation=validation,
            score=score,
            device=self.device,
            own=self.own,
        )

    def _line(self, candidate: Candidate, number: int, phase: str, seed: int) -> Measurement:
        allocation = candidate.allocation
        return Measurement(
            number=number,
            phase=phase,
            kind=candidate.kind,
            digest=allocation.digest,
            label=allocation.label,
            allocation=json.dumps(allocation.to_json(), separators=(",", ":")),
            budget=candidate.budget,
            bits_per_weight=allocation.bits_per_weight,
            nominal_bits_per_weight=round(allocation.nominal_bits_per_weight, 4),
            payload_bits=allocation.payload_bits,
            file_bytes=file_layout(allocation, self.model_name).file_bytes,
            seed=seed,
            epochs=0,
            images=0,
            state=FAILED,
            val_accuracy=math.nan,
            val_loss=math.nan,
            rungs="",
            train_seconds=0.0,
            reason="",
        )
