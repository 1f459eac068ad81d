"""ResNet-20 on Fashion-MNIST: does a model of accuracy find a better allocation of 18 layers than the rules of thumb?

python studies/resnet20-fashion-mnist/run.py --seconds 3600          # small form: 14x14 images, 16,384 for training
python studies/resnet20-fashion-mnist/run.py --size full             # full size, for a GPU: several at a time
python studies/resnet20-fashion-mnist/run.py --late --processes 2    # the late pick, on a CPU; --size full for a GPU
python studies/resnet20-fashion-mnist/run.py --long --processes 2    # the same picks by a longer recipe
python studies/resnet20-fashion-mnist/run.py --seconds 0             # train nothing, only print what is there

In this order, each step written down as soon as it is done, so that it can be stopped at any time and called again:
1. small form only: one shared network of all allocations is trained, and 300 random ones are scored on it
   (shared_scores.csv); the model fitted to the scores names its best under each budget, the "shared pick";
2. 48 random allocations train once each, and weights^-gamma for four gammas, with seeds of their own;
3. the model fitted to the validation accuracies of all these trainings names its best under each budget, on any n_in
   from 2 to 20, the "pick" (picks.json; neither pick is changed after it is named);
4. every candidate trains by one recipe with 5 seeds (trainings.csv): the picks, uniform, stages like 20/16/7, and
   weights^-gamma at the gamma of best validation accuracy;
5. 30 other random allocations train, to be compared with what was predicted before.
With --late: the model, as it was improved since, is fitted to the validation accuracies of all of these, and in the
small form of more trainings that were made on the way (explored.csv); it names a "late pick", once, which trains beside
the rules of thumb with 5 seeds that nothing was trained with before (late.csv).
With --long: the late picks and the rules of thumb once more by a longer recipe (24 epochs in the small form, images
mirrored at random), with 5 other seeds (long.csv).

Candidates are chosen by validation accuracy; test accuracies are only printed.
"""

import argparse
import csv
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))
from train_table import Job, begin_table, mean_and_error, points, print_table, read_table, train_table, use_threads

from flexor_search.files import write_atomically
from flexor_search.planning import (
    Allocation,
    Budget,
    SearchSpace,
    full_precision,
    make_space,
    nearest_uniform,
    project_log_rates,
    read_space_file,
    size_rule,
)
from flexor_search.planning.space_file import SpaceFile
from flexor_search.quantization import describe
from flexor_search.tuning import SHARED, SHARED_LOSS, TRAINED, Observation, Silent, closed_recipe, fit_accuracy_model
from flexor_search.workloads import Data, Workload, workload

HERE = Path(__file__).parent
BUDGETS = tuple(map(Budget.parse, ("0.3bpw", "0.4bpw", "0.47bpw", "0.6bpw")))
HALVES = tuple(map(Budget.parse, ("0.5bpw", "0.344bpw", "0.266bpw")))
"""Half of what the paper's codes take or store in ../half-the-bits, beyond 0.4 and 0.3."""
GAMMAS = (0.25, 0.5, 0.75, 1.0)
SEEDS = (101, 102, 103, 104, 105)
GAMMA_SEEDS = {"small": (11, 12), "full": (11,)}
RANDOM_SEEDS = {"small": (21, 22), "full": (21, 22)}
SCORES, SEARCHED, RANDOMS = 300, 48, 30
LATE_SEEDS = (401, 402, 403, 404, 405)
LONG_SEEDS = (601, 602, 603, 604, 605)
EPOCHS = {"small": 8, "full": 2}
"""Of a training: 1,024 steps of 128 of the 16,384 images in small, 858 of the 55,000 in full size."""
LONG_EPOCHS = {"small": 24, "full": 8}
SHARED_EPOCHS = 10
TILT = 0.3
"""Of the allocations that train for the model: their rates go with weights^-TILT, as good ones' do."""
STAGES = {"layer1": 20, "layer2": 16, "layer3": 7}
RULES = ("uniform", "stages", "size rule")
CANDIDATES = ("late pick", "pick", "shared pick", *RULES)


def random_allocations(space: SearchSpace, count: int, seed: int, tilt: float = 0.0) -> list[Allocation]:
    """Allocations of all sizes: each layer's rate around a rate of the whole network, less for larger layers."""
    random = np.random.Generator(np.random.PCG64(seed))
    sizes = np.log([space.model.by_name[variable.layers[0]].n_weights for variable in space.variables])
    lean = -tilt * (sizes - sizes.mean())
    found = []
    for _ in range(count):
        middle = random.uniform(math.log(0.15), math.log(0.9))
        rates = [math.exp(middle + more + random.normal(0, 0.6)) for more in lean]
        profile = tuple(
            int(np.argmin([abs(spec.rate - rate) for spec in variable.menu]))
            for variable, rate in zip(space.variables, rates, strict=True)
        )
        found.append(space.allocation(profile))
    return found


def shared_scores(folder: Path, space: SearchSpace, task: Workload, data: Data) -> list[Observation]:
    """Train the shared network and score allocations on it, or read what an earlier call left."""
    path, columns = folder / "shared_scores.csv", ("allocation", "accuracy", "loss")
    known = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    known = [row for row in known if row["loss"]]
    if len(known) < SCORES:
        from flexor_search.training import Checkpoint, seeded
        from flexor_search.training.checkpoint import read_checkpoint, write_checkpoint
        from flexor_search.training.shared import ProfileScorer, shared_model, train_shared

        device = device_name()
        recipe = closed_recipe(task.build, data, task.recipe, device, space.dearest, {}, Silent())
        recipe = replace(recipe, epochs=SHARED_EPOCHS)
        with seeded(0):
            model = shared_model(task.build(), space, recipe)
        weights, identity = folder / "shared.safetensors", [recipe.to_json(), len(data.train)]
        if weights.exists():
            model.load_state_dict(read_checkpoint(weights)[0])
        else:
            checkpoint = Checkpoint(folder / "unfinished.safetensors", identity=identity, tell=print)
            options = {"seed": 0, "device": device, "paths": "random", "checkpoint": checkpoint}
            result = train_shared(model, space, data, recipe, **options)
            write_checkpoint(weights, model.state_dict(), identity)
            checkpoint.path.unlink(missing_ok=True)
            print(f"shared network: {result.train_seconds:.0f} s", flush=True)
        scorer = ProfileScorer(model, data, recipe, device)
        begin_table(path, known, columns)
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            for allocation in random_allocations(space, SCORES, seed=1)[len(known) :]:
                score = scorer(space.profile(allocation))
                values = (allocation.label, f"{score.accuracy:.4f}", f"{score.loss:.5f}")
                known.append(dict(zip(columns, values, strict=True)))
                writer.writerow(known[-1])
                file.flush()
    found = []
    for allocation, row in zip(random_allocations(space, SCORES, seed=1), known, strict=True):
        found.append(Observation(allocation, float(row["accuracy"]), SHARED))
        found.append(Observation(allocation, -float(row["loss"]), SHARED_LOSS))
    return found


def picks(
    folder: Path, name: str, space: SearchSpace, observed: list[Observation], budgets: tuple[Budget, ...] = BUDGETS
) -> dict[str, Allocation]:
    """A model's best under each budget, named once, before any of them is trained."""
    path = folder / "picks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in known:
        model = fit_accuracy_model(space, observed)
        named = {budget.text: model.best_under(budget).to_json() for budget in budgets}
        known[name] = {"picks": named, "model": model.to_json()}
        write_atomically(path, (json.dumps(known, indent=1) + "\n").encode())
    return {text: Allocation.from_json(space.model, body) for text, body in known[name]["picks"].items()}


def rules(space: SearchSpace, budget: Budget) -> dict[str, Allocation]:
    """Uniform, the stage mix and all the size rules, on any n_in from 1 to 20."""
    file = read_space_file("resnet20-layers")
    fine = make_space(space.model, file, space.model_name)
    stage_rates = [math.log(STAGES[variable.name.split(".")[0]]) for variable in fine.variables]
    uniform = nearest_uniform(fine, budget)
    assert uniform is not None
    return {
        "uniform": uniform,
        "stages": fine.allocation(project_log_rates(fine, stage_rates, budget)),
        **{f"gamma {gamma:g}": size_rule(fine, budget, gamma) for gamma in GAMMAS},
    }


def best_gamma(rows: list[dict[str, str]], budget: Budget, seeds: int) -> str | None:
    """The size rule of best mean validation accuracy over its own seeds; None while some are not trained."""
    means = {}
    for gamma in GAMMAS:
        values = points(rows, f"{budget.text} gamma {gamma:g}", "val_accuracy")
        if len(values) < seeds:
            return None
        means[f"gamma {gamma:g}"] = sum(values) / len(values)
    return max(means, key=lambda name: means[name])


def print_results(rows: list[dict[str, str]], predictions: dict[str, np.ndarray], seeds: tuple[int, ...]) -> None:
    """All there is: candidates of each budget, differences with standard errors, prediction against training."""
    over_uniform, over_best = [], []
    for budget in BUDGETS:
        names = [name for name in CANDIDATES if points(rows, f"{budget.text} {name}", "val_accuracy")]
        if not names:
            continue
        print(f"\nat most {budget.text}")
        values = {
            n: {c: points(rows, f"{budget.text} {n}", c) for c in ("val_accuracy", "test_accuracy")} for n in names
        }
        for name in names:
            row = next(row for row in rows if row["name"] == f"{budget.text} {name}")
            (val, val_error), (test, test_error) = map(mean_and_error, values[name].values())
            print(
                f"  {name:<10} {float(row['bits_per_weight']):.3f} bpw  validation {val:.2f} +- {val_error:.2f}  "
                f"test {test:.2f} +- {test_error:.2f}  ({len(values[name]['val_accuracy'])} seeds)  {row['label']}"
            )
        chosen = max(names, key=lambda name: mean_and_error(values[name]["val_accuracy"])[0])
        print(f"  chosen by validation: {chosen}")
        test = {name: mean_and_error(values[name]["test_accuracy"]) for name in names}
        apart = {name: (test[chosen][0] - test[name][0], math.hypot(test[chosen][1], test[name][1])) for name in names}
        apart[chosen] = (0.0, 0.0)
        for name in (name for name in names if name != chosen):
            print(f"    over {name}: {apart[name][0]:+.2f} +- {apart[name][1]:.2f} points of test accuracy")
        if set(RULES) <= set(names):
            over_uniform.append(apart["uniform"])
            best_rule = max(RULES, key=lambda name: mean_and_error(values[name]["val_accuracy"])[0])
            over_best.append(apart[best_rule])
    for name, some in (("uniform", over_uniform), ("the best rule of thumb by validation", over_best)):
        if some:
            mean = sum(value for value, _ in some) / len(some)
            error = math.sqrt(sum(error**2 for _, error in some)) / len(some)
            print(f"\nmean over {len(some)} budgets, chosen over {name}: {mean:+.2f} +- {error:.2f} points")
    trained = [{row["name"]: float(row["val_accuracy"]) for row in rows if row["seed"] == str(seed)} for seed in seeds]
    names = [name for name in (f"random {i}" for i in range(RANDOMS)) if all(name in one for one in trained)]
    if len(names) < 3:
        return
    means = [sum(one[name] for one in trained) for name in names]
    for source, predicted in predictions.items():
        rank = spearmanr([predicted[int(name.split()[1])] for name in names], means).statistic
        print(f"\n{len(names)} random allocations, {len(seeds)} seeds: Spearman of validation and {source} {rank:.3f}")
    if len(trained) > 1:
        ceiling = spearmanr(*([one[name] for name in names] for one in trained[:2])).statistic
        print(f"between two of the seeds {ceiling:.3f}")


def read_label(space: SearchSpace, label: str) -> Allocation:
    """The allocation that a row's label names, of systematic codes and one plane."""
    specs = [spec if spec == "-" else spec.split("/") for spec in label.split()]
    body = full_precision(space.model).to_json()
    for name, spec in zip(body["layers"], specs, strict=True):
        if spec != "-":
            body["layers"][name] = {"family": "systematic", "n_in": int(spec[0]), "n_out": int(spec[1])}
    body["not_searched"] = [name for name, spec in zip(body["layers"], specs, strict=True) if spec == "-"]
    return Allocation.from_json(space.model, body)


def late_pick(folder: Path, space: SearchSpace) -> dict[str, Allocation]:
    """The best under each budget by the model fitted to all validation accuracies there are, named once.

    On any n_in from 1 to 20, as the rules are: the trainings on the way had shown that the last layers may have 1.
    """
    fine = make_space(space.model, read_space_file("resnet20-layers"), space.model_name)
    rows = [row for name in ("trainings.csv", "explored.csv") for row in read_table(folder / name)]
    observed = [Observation(read_label(fine, row["label"]), float(row["val_accuracy"]), TRAINED) for row in rows]
    found = picks(folder, "late pick", fine, observed)
    return found | picks(folder, "late pick, half the bits", fine, observed, HALVES)


def late_jobs(folder: Path, space: SearchSpace, gammas: dict[Budget, str | None], seeds: tuple[int, ...]) -> list[Job]:
    """The late picks beside the rules, seed after seed; uniform, which is far from the others, last."""
    named, jobs, uniform = late_pick(folder, space), [], []
    for seed in seeds:
        for budget, gamma in gammas.items():
            of_rules = rules(space, budget)
            candidates = {"late pick": named[budget.text], "size rule": of_rules[str(gamma)]}
            candidates["stages"] = of_rules["stages"]
            jobs += [Job(f"{budget.text} {name}", one, seed) for name, one in candidates.items()]
            uniform.append(Job(f"{budget.text} uniform", of_rules["uniform"], seed))
    return jobs + uniform


def half_jobs(folder: Path, space: SearchSpace) -> list[Job]:
    """The late picks at half of what the paper's codes take."""
    named = late_pick(folder, space)
    return [Job(f"{b.text} late pick", named[b.text], seed) for seed in LATE_SEEDS for b in HALVES]


def device_name() -> str:
    """Where to train."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Do what is missing while there is time, then print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing later than this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--late", action="store_true", help="the late pick")
    parser.add_argument("--long", action="store_true", help="the late pick by the longer recipe")
    parser.add_argument("--processes", type=int, default=1, help="on a CPU, of one thread each")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="default: a folder beside this script")
    given = parser.parse_args()
    is_late = given.late or given.long
    started, folder = time.monotonic(), given.folder or HERE / given.size
    folder.mkdir(parents=True, exist_ok=True)
    use_threads(given.threads)
    size = given.size
    task = workload("resnet20-fashion-mnist-small" if size == "small" else "resnet20-fashion-mnist")
    recipe = replace(task.recipe, epochs=EPOCHS[size], search_epochs=EPOCHS[size])
    if given.long:
        recipe = replace(recipe, epochs=LONG_EPOCHS[size], search_epochs=LONG_EPOCHS[size], augmentation="flip")
    if device_name() == "cuda" or is_late or size == "full":
        recipe = replace(recipe, precision="bfloat16", memory_format="channels_last")
    task = replace(task, recipe=recipe)
    space = make_space(describe(task.build()), read_space_file(HERE / "space.toml"), task.name)
    menu = {"keep": ["conv1", "linear"], "default": {"rates": [f"{n_in}/20" for n_in in range(2, 21)]}}
    fine = make_space(space.model, SpaceFile.model_validate(menu), task.name)
    table = folder / "trainings.csv"
    if given.seconds <= 0 and not (folder / "picks.json").exists():
        print("nothing is there yet")
        return
    data = task.load(given.data_dir)
    if is_late:
        earlier = read_table(table)
        gammas = {budget: best_gamma(earlier, budget, len(GAMMA_SEEDS[size])) for budget in BUDGETS}
        if None in gammas.values():
            parser.error(f"{table} must hold the gammas of all budgets; run without it first")
        jobs = late_jobs(folder, space, gammas, LONG_SEEDS if given.long else LATE_SEEDS)
        jobs += [] if given.long else half_jobs(folder, space)
        path = folder / ("long.csv" if given.long else "late.csv")
        late = train_table(path, jobs, task, data, given.seconds, given.processes)
        print_results(late, {}, LONG_SEEDS if given.long else LATE_SEEDS)
        print_table([row for row in late if row["name"].split()[0] in [budget.text for budget in HALVES]])
        return
    observed: dict[str, list[Observation]] = {}
    named: dict[str, dict[str, Allocation]] = {}
    if size == "small":
        observed["shared network"] = shared_scores(folder, space, task, data)
        named["shared pick"] = picks(folder, "shared pick", space, observed["shared network"])
    fixed = {budget: rules(space, budget) for budget in BUDGETS}
    searched = random_allocations(space, SEARCHED, seed=3, tilt=TILT)
    randoms = random_allocations(space, RANDOMS, seed=2)

    def left() -> float:
        return given.seconds - (time.monotonic() - started)

    jobs = [Job(f"searched {i}", one, 1000 + i) for i, one in enumerate(searched)]
    jobs += [
        Job(f"{budget.text} gamma {gamma:g}", fixed[budget][f"gamma {gamma:g}"], seed)
        for seed in GAMMA_SEEDS[size]
        for budget in BUDGETS
        for gamma in GAMMAS
    ]
    rows = train_table(table, jobs, task, data, left(), given.processes)
    values = {(row["name"], int(row["seed"])): float(row["val_accuracy"]) for row in rows}
    if all((job.name, job.seed) in values for job in jobs):
        observed["trainings"] = [Observation(job.allocation, values[job.name, job.seed], TRAINED) for job in jobs]
        named["pick"] = picks(folder, "pick", fine, observed["trainings"])
    jobs = []
    for seed in SEEDS:
        for budget in BUDGETS:
            candidates = {name: some[budget.text] for name, some in named.items()}
            candidates |= {name: fixed[budget][name] for name in ("uniform", "stages")}
            if (gamma := best_gamma(rows, budget, len(GAMMA_SEEDS[size]))) is not None:
                candidates["size rule"] = fixed[budget][gamma]
            jobs += [Job(f"{budget.text} {name}", one, seed) for name, one in candidates.items()]
    for seed in RANDOM_SEEDS[size]:
        jobs += [Job(f"random {i}", one, seed) for i, one in enumerate(randoms)]
    train_table(table, jobs, task, data, left(), given.processes)
    predictions = {
        f"the prediction by {name}": fit_accuracy_model(fine if name == "trainings" else space, some).predict(randoms)[
            0
        ]
        for name, some in observed.items()
    }
    print_results(read_table(table), predictions, RANDOM_SEEDS[size])


if __name__ == "__main__":
    main()
