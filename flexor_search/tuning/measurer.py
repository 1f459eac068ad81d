"""Train one allocation, pack it, prove the packed file, write it all down; never twice."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from flexor_search.errors import TrainingError, VerificationError
from flexor_search.files import write_json
from flexor_search.packing import load, pack, prove, save, unpack_into
from flexor_search.planning import Allocation, Recipe, file_layout
from flexor_search.quantization import quantize_
from flexor_search.runs import DONE, FAILED, SEARCH, STOPPED, Measurement, Run
from flexor_search.training import Score, evaluate, seeded, train
from flexor_search.workloads import Data

PROBE_IMAGES, PROBE_ELEMENTS = 64, 400_000
"""Validation images that logits are compared on: so many, but of large images only as many as hold so much."""

ACCURACY_TOLERANCE = 0.002
"""Validation accuracy that rounding to the kept dtype may cost (or one image, where that is more); more is told."""


@dataclass(frozen=True)
class Candidate:
    """An allocation to measure, and what it is there for.

    Attributes:
        allocation: what each layer is stored as.
        kind: "uniform", "size rule 0.5", "proposed", "full precision".
        budget: text of the budget it was projected onto.
    """

    allocation: Allocation
    kind: str
    budget: str = ""


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
    """

    run: Run
    build: Callable[[], nn.Module]
    data: Data
    recipe: Recipe
    model_name: str
    device: str

    def known(self, candidate: Candidate, phase: str, seed: int) -> Measurement | None:
        """The measurement, if it was made before; one whose packed file was lost is made again."""
        found = self.run.find((candidate.allocation.digest, phase, seed))
        if found is not None and found.state == DONE and not self.run.trained_path(found.number).exists():
            return None
        return found

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
        found = self.known(candidate, phase, seed)
        if found is not None:
            return found
        recipe, data = self._at_fidelity(phase)
        rungs: dict[int, float] = {}

        def on_epoch(epoch: int, score: Score) -> bool:
            rungs[epoch] = score.accuracy
            return weak is not None and weak(epoch, score)

        number = max((m.number for m in self.run.measurements), default=-1) + 1
        state, reason, score, epochs, seconds = FAILED, "", Score(math.nan, math.nan), 0, 0.0
        try:
            model = self._fresh(candidate.allocation, recipe, seed)
            result = train(
                model, data, recipe, seed=seed, device=self.device, on_epoch=on_epoch if phase == SEARCH else None
            )
            score, epochs, seconds = result.validation, result.epochs, result.train_seconds
            if result.stopped:
                state, reason = STOPPED, f"weak after epoch {epochs}"
            else:
                self._ship(model, candidate.allocation, number, recipe, score)
                state = DONE
        except (TrainingError, VerificationError, MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        measurement = self._line(candidate, number, phase, seed)
        measurement = replace(
            measurement,
            epochs=epochs,
            images=len(data.train),
            state=state,
            val_accuracy=score.accuracy,
            val_loss=score.loss,
            rungs=" ".join(f"{epoch}:{accuracy:.6f}" for epoch, accuracy in rungs.items()),
            train_seconds=round(seconds, 3),
            reason=reason,
        )
        self.run.append(measurement)
        return measurement

    def test_accuracy(self, measurement: Measurement) -> float:
        """Accuracy on the test split of the packed file of a measurement, as it would be shipped."""
        packed = load(self.run.trained_path(measurement.number))
        model = unpack_into(packed, self.build())
        return evaluate(model, self.data.test, device=self.device).accuracy

    def _at_fidelity(self, phase: str) -> tuple[Recipe, Data]:
        if phase != SEARCH:
            return self.recipe, self.data
        return self.recipe.for_search(), replace(self.data, train=self.data.train.take(self.recipe.search_images))

    def _fresh(self, allocation: Allocation, recipe: Recipe, seed: int) -> nn.Module:
        with seeded(seed):
            return quantize_(self.build(), allocation, pretrained=recipe.pretrained, surrogate=recipe.surrogate)

    def _ship(self, model: nn.Module, allocation: Allocation, number: int, recipe: Recipe, score: Score) -> None:
        """Write the packed file under a temporary name, prove it, then give it its name."""
        path = self.run.trained_path(number)
        unproven = path.with_name(f".unproven-{number}-{os.getpid()}.safetensors")
        if recipe.precision != "float32":
            score = evaluate(model, self.data.validation, device=self.device)
        try:
            save(pack(model, allocation, self.model_name), allocation, unproven)
            count = min(PROBE_IMAGES, 1 + PROBE_ELEMENTS // self.data.validation.images[0].numel())
            images, _ = self.data.validation.batch(slice(0, count))
            proof = prove(model, allocation, unproven, self.build, images, self.model_name)
            packed = evaluate(proof.loaded, self.data.validation, device=self.device)
            lost, allowed = score.accuracy - packed.accuracy, max(ACCURACY_TOLERANCE, 1 / len(self.data.validation))
            told = {
                "steps": [step.to_json() for step in proof.steps],
                "kept_dtype": allocation.kept_dtype,
                "val_accuracy_trained": score.accuracy,
                "val_accuracy_packed": packed.accuracy,
                "kept_dtype_holds": lost <= allowed,
            }
            write_json(self.run.packing_path(number), told)
            unproven.replace(path)
        finally:
            unproven.unlink(missing_ok=True)

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
