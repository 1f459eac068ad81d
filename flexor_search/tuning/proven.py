"""Write the packed file of a training, and let nobody see it before it is proven."""

import os
from collections.abc import Callable

from torch import nn

from flexor_search.files import write_json
from flexor_search.packing import pack, prove, save
from flexor_search.planning import Allocation
from flexor_search.runs import Run
from flexor_search.training import Score, evaluate
from flexor_search.workloads import NO_OWN, Own, Split

PROBE_IMAGES, PROBE_ELEMENTS = 64, 400_000
"""Validation images that logits are compared on: so many, but of large images only as many as hold so much."""

ACCURACY_TOLERANCE = 0.002
"""Validation accuracy that rounding to the kept dtype may cost (or one image, where that is more); more is told.

Of a metric whose values are above 1 it is that share."""


def write_proven(
    run: Run,
    number: int,
    model: nn.Module,
    allocation: Allocation,
    *,
    build: Callable[[], nn.Module],
    model_name: str,
    validation: Split,
    score: Score,
    device: str,
    own: Own = NO_OWN,
) -> None:
    """Write the packed file under a temporary name, prove it, write what its packing did, then give it its name.

    Args:
        run: the run whose files they are.
        number: of the measurement.
        model: trained.
        allocation: what it was quantized by.
        build: makes a plain model, for the proof.
        model_name: the built-in workload, "" for a user's own model.
        validation: images that the proof and the check of the kept dtype use.
        score: of the trained model on them, in float32.
        device: where to score the packed model.
        own: may hold the metric that scores it.

    Raises:
        VerificationError: the file does not decode to what was trained.
    """
    path = run.trained_path(number)
    unproven = path.with_name(f".unproven-{number}-{os.getpid()}.safetensors")
    try:
        save(pack(model, allocation, model_name), allocation, unproven)
        count = min(PROBE_IMAGES, 1 + PROBE_ELEMENTS // validation.images[0].numel())
        images, _ = validation.batch(slice(0, count))
        proof = prove(model, allocation, unproven, build, images, model_name)
        packed = evaluate(proof.loaded, validation, device=device, own=own)
        lost = score.accuracy - packed.accuracy
        allowed = max(ACCURACY_TOLERANCE * max(1.0, abs(score.accuracy)), 1 / len(validation))
        told = {
            "steps": [step.to_json() for step in proof.steps],
            "kept_dtype": allocation.kept_dtype,
            "val_accuracy_trained": score.accuracy,
            "val_accuracy_packed": packed.accuracy,
            "kept_dtype_holds": lost <= allowed,
        }
        write_json(run.packing_path(number), told)
        unproven.replace(path)
    finally:
        unproven.unlink(missing_ok=True)
