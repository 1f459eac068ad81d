"""Stop weak trials early: a rung rule that sees both accuracy and size.

Optuna prunes by one number; a trial here is weak only against trials that are no larger. Validation accuracy in the
middle of a training says little while the learning rate is high (0.1 can become 0.99), and how little is measured: the
finished trials tell how much any of them still gained after that epoch. A trial that would stay behind several smaller
ones even if it gained a quarter more than any of them is stopped; nothing is in the first third.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flexor_search.runs import DONE, SEARCH, Measurement
from flexor_search.training import Score

RIVALS = 3
"""How many finished trials, no larger and out of reach, it takes."""

SLACK = 1.25
"""What a trial may still gain, over the most that any finished trial gained from the same epoch on."""


@dataclass(frozen=True)
class WeakRule:
    """The rule for one trial: a function of (epochs done, score) that says whether to stop. It can be sent anywhere.

    Attributes:
        finished: final accuracy of each finished search trial, and its accuracy after each epoch.
        rivals: accuracies of those that are no larger than the trial.
        epochs: of a whole trial.
    """

    finished: tuple[tuple[float, dict[int, float]], ...]
    rivals: tuple[float, ...]
    epochs: int

    def __call__(self, epoch: int, score: Score) -> bool:
        """Whether a trial with this score after this epoch is too weak to go on."""
        gained = [accuracy - rungs[epoch] for accuracy, rungs in self.finished if epoch in rungs]
        if not gained or 3 * epoch <= self.epochs:
            return False
        hope = score.accuracy + SLACK * max(*gained, 0.0)
        return sum(rival > hope for rival in self.rivals) >= RIVALS


def weak_rule(measurements: Sequence[Measurement], bits_per_weight: float, epochs: int) -> WeakRule:
    """The rule for one trial.

    Args:
        measurements: all that are known; finished search trials are compared with.
        bits_per_weight: of the trial.
        epochs: of a whole trial.
    """
    finished = [m for m in measurements if m.phase == SEARCH and m.state == DONE]
    rivals = tuple(m.val_accuracy for m in finished if m.bits_per_weight <= bits_per_weight)
    return WeakRule(tuple((m.val_accuracy, m.rung_accuracies) for m in finished), rivals, epochs)
