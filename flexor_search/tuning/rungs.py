"""Stop weak trials early: a rung rule that sees both accuracy and size.

Optuna prunes by one number; a trial here is weak only against trials that are no larger. Validation accuracy in the
middle of a training says little while the learning rate is high (0.1 can become 0.99), and how little is measured: the
finished trials tell how much any of them still gained after that epoch. A trial that would stay behind several smaller
ones even if it gained a quarter more than any of them is stopped; nothing is in the first third.
"""

from collections.abc import Callable, Sequence

from flexor_search.runs import DONE, SEARCH, Measurement
from flexor_search.training import Score

RIVALS = 3
"""How many finished trials, no larger and out of reach, it takes."""

SLACK = 1.25
"""What a trial may still gain, over the most that any finished trial gained from the same epoch on."""


def weak_rule(measurements: Sequence[Measurement], bits_per_weight: float, epochs: int) -> Callable[[int, Score], bool]:
    """The rule for one trial.

    Args:
        measurements: all measurements so far; finished search trials are compared with.
        bits_per_weight: of the trial.
        epochs: of a whole trial.

    Returns:
        A function of (epochs done, score) that says whether to stop.
    """
    finished = [(m, m.rung_accuracies) for m in measurements if m.phase == SEARCH and m.state == DONE]
    rivals = [m.val_accuracy for m, _ in finished if m.bits_per_weight <= bits_per_weight]

    def weak(epoch: int, score: Score) -> bool:
        gained = [m.val_accuracy - rungs[epoch] for m, rungs in finished if epoch in rungs]
        if not gained or 3 * epoch <= epochs:
            return False
        hope = score.accuracy + SLACK * max(*gained, 0.0)
        return sum(rival > hope for rival in rivals) >= RIVALS

    return weak
