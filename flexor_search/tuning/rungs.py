"""Stop weak trials early: asynchronous successive halving over epochs, among trials that are no larger.

At each rung, an epoch, a trial goes on if it is in the better half of those that have reached the rung before it (Li et
al., "A system for massively parallel hyperparameter tuning", 2020, with a reduction factor of 2). A trial here has two
objectives, accuracy and size, so it stands against the trials that are no larger: a small one need not be as accurate
as a large one. There is no rung before half of the epochs: accuracy says next to nothing there while the learning rate
is high (docs/log.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexor_search.runs import DONE, SEARCH, STOPPED, Measurement
from flexor_search.training import Score

RUNGS = (0.5, 0.75)
"""As shares of the epochs."""
RIVALS = 4
"""How many trials it takes that one can be worse than half of them."""


@dataclass(frozen=True)
class Halving:
    """The rule for one trial: a function of (epochs done, score) that says whether to stop. It can be sent anywhere.

    Attributes:
        rivals: epoch of each rung -> accuracies there of the trials that are no larger.
    """

    rivals: Mapping[int, tuple[float, ...]]

    def __call__(self, epoch: int, score: Score) -> bool:
        """Whether a trial with this score after this epoch is in the worse half."""
        rivals = self.rivals.get(epoch, ())
        better = sum(rival > score.accuracy for rival in rivals)
        return len(rivals) >= RIVALS and 2 * better > len(rivals)


def halving(measurements: Sequence[Measurement], bits_per_weight: float, epochs: int) -> Halving:
    """The rule for one trial.

    Args:
        measurements: all that are known; trials of the search that have reached a rung are compared with.
        bits_per_weight: of the trial.
        epochs: of a whole trial.
    """
    reached = [
        m.rung_accuracies
        for m in measurements
        if m.phase == SEARCH and m.state in (DONE, STOPPED) and m.bits_per_weight <= bits_per_weight
    ]
    rungs = dict.fromkeys(math.ceil(share * epochs) for share in RUNGS)
    return Halving({rung: tuple(seen[rung] for seen in reached if rung in seen) for rung in rungs if rung < epochs})
