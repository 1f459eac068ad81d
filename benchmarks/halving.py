"""What stopping weak trials saves, and whom it stops: `python -m benchmarks.halving --json`.

The direct strategy searches on digits with nothing stopped, once a seed. Its trials are replayed in order, each against
those begun before it, by successive halving at rungs that are shares of the epochs. A run that was interrupted goes on.

JSON keys, each seed by itself: `rank_correlation` (epoch -> Spearman of the accuracy there and at the end), `halving`
(rungs -> `epochs`, the share of all that are still trained; `stopped`; `of_the_best`, those of them that end among the
best quarter of the trials that are no larger), `trials`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from scipy.stats import spearmanr

import flexor_search as fs
from flexor_search.runs import DONE, SEARCH, STOPPED, Measurement, rungs_text
from flexor_search.training import Score
from flexor_search.tuning import rungs
from flexor_search.tuning.trial import PROPOSED

RULES = {"as it is": rungs.RUNGS, "1/3, 2/3": (1 / 3, 2 / 3), "1/2": (0.5,), "3/4": (0.75,)}


def trials(folder: Path, seed: int, budget: str, count: int) -> list[Measurement]:
    """The trials of a search in which none is stopped, in order; those that failed left out.

    A search that is complete is looked up, whatever code made it.
    """
    folder = folder / f"{budget}-{count}-trials-seed-{seed}"
    run = fs.open_run(folder) if folder.exists() else None
    if run is None or (run.summary() or {}).get("state") != "complete":
        question = fs.Question(strategy="direct", trials=count, timeout_seconds=1e6, seeds=2, seed=seed)
        with patch("flexor_search.tuning.direct.halving", lambda *_: None):
            run = fs.search(budget=budget, question=question, out=folder)
    return sorted((m for m in run.record.measurements if m.phase == SEARCH and m.state == DONE), key=lambda m: m.number)


def replay(done: list[Measurement], shares: tuple[float, ...]) -> dict[str, float]:
    """Who would have been stopped, had the rungs been these."""
    seen, stopped, epochs = list[Measurement](), list[Measurement](), 0
    for trial in done:
        whole, end = trial.epochs, trial.epochs
        if trial.kind == PROPOSED:
            with patch.object(rungs, "RUNGS", shares):
                rule = rungs.halving(seen, trial.bits_per_weight, whole)
            end = next((e for e, a in trial.rung_accuracies.items() if rule(e, Score(a, 0.0))), whole)
        if end < whole:
            stopped.append(trial)
            kept = rungs_text({e: a for e, a in trial.rung_accuracies.items() if e <= end})
            trial = replace(trial, state=STOPPED, rungs=kept)
        seen.append(trial)
        epochs += end
    return {
        "epochs": round(epochs / sum(trial.epochs for trial in done), 3),
        "stopped": len(stopped),
        "of_the_best": sum(_is_of_the_best(trial, done) for trial in stopped),
    }


def _spearman(one: list[float], other: list[float]) -> float:
    return float(spearmanr(one, other).statistic)  # type: ignore[attr-defined]


def _is_of_the_best(trial: Measurement, done: list[Measurement]) -> bool:
    others = [one.val_accuracy for one in done if one.bits_per_weight <= trial.bits_per_weight]
    return 4 * sum(other > trial.val_accuracy for other in others) < len(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="0.7bpw")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/halving"), help="one run a seed, kept")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result: dict[str, dict] = {"rank_correlation": {}, "halving": {}, "trials": {}}
    for seed in map(str, range(given.seeds)):
        done = trials(given.folder, int(seed), given.budget, given.trials)
        ends = [trial.val_accuracy for trial in done]
        result["rank_correlation"][seed] = {
            epoch: round(_spearman([trial.rung_accuracies[epoch] for trial in done], ends), 2)
            for epoch in done[0].rung_accuracies
        }
        result["halving"][seed] = {name: replay(done, shares) for name, shares in RULES.items()}
        result["trials"][seed] = {"all": len(done), "proposed": sum(trial.kind == PROPOSED for trial in done)}
    if given.json:
        print(json.dumps(result, indent=1))
        return
    for seed, rows in result["halving"].items():
        print(f"seed {seed}: {result['trials'][seed]}, rank correlation by epoch {result['rank_correlation'][seed]}")
        for name, row in rows.items():
            print(f"  rungs {name:<9} {row}")


if __name__ == "__main__":
    main()
