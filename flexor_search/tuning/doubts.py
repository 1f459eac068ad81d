"""What a model of accuracy is unsure of, in words for the report and the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexor_search.tuning.accuracy_model import AccuracyModel

_FEW_TRAININGS = 3
_LARGE_SHARE = 0.5


def doubts(model: "AccuracyModel") -> list[str]:
    """What the model is unsure of, the gravest first.

    Args:
        model: a fitted model.

    Returns:
        A sentence each: sources that tell little, layers whose rates could be worth something else altogether.
    """
    found = []
    trainings = model.counts.get(model.reference, 0)
    others = [name for name in model.counts if name != model.reference]
    if others and trainings < _FEW_TRAININGS:
        found.append(
            f"only {trainings} values of {model.reference}: how {others[0]} scores translate into it is mostly assumed"
        )
    total = sum(model.counts.values())
    if total < 2 * len(model.space.variables):
        found.append(
            f"{total} values for {len(model.space.variables)} choices: what is predicted is mostly the rules of thumb"
        )
    rows = model.sensitivities()
    layers = list(dict.fromkeys(row.layer for row in rows))
    unsure = []
    for layer in layers:
        own = [row for row in rows if row.layer == layer]
        worst = max(own, key=lambda row: row.loss)
        if len(own) > 1 and worst.uncertainty > _LARGE_SHARE * max(worst.loss, 1e-12):
            unsure.append((worst.uncertainty, layer, worst))
    unit = "hundredths of the loss" if "loss" in model.reference else "points"
    for _, layer, worst in sorted(unsure, key=lambda entry: -entry[0])[:5]:
        found.append(
            f"{layer} at {worst.label} loses {100 * worst.loss:.2f} +- {100 * worst.uncertainty:.2f} {unit}: "
            "its rate may matter more or less than that"
        )
    if model.has_interactions:
        found.append("layers interact: what one loses depends on the others' rates")
    return found
