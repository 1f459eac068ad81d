"""Which strategy finds the allocations: chosen by what the workload costs, told in one line, the same after a break."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import monotonic

from flexor_search.planning import GAMMAS
from flexor_search.planning.ties import opened
from flexor_search.quantization import why_not_shared
from flexor_search.runs import SEARCH
from flexor_search.runs.sensitivity import Sensitivity, is_of_network
from flexor_search.training import SharedNetworkError
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.confirm import FINALISTS, Finalists
from flexor_search.tuning.direct import search
from flexor_search.tuning.flow import Team
from flexor_search.tuning.measurer import Measurer, alone
from flexor_search.tuning.observer import Observer, Phase
from flexor_search.tuning.proposals import SearchPlan
from flexor_search.tuning.shared_scores import SharedPlan, most_scores, shared_scores, unfinished_files
from flexor_search.tuning.supernet_strategy import TRIALS, TRIALS_FOR_MANY, sizes, supernet_search
from flexor_search.tuning.time_plan import scoring_seconds
from flexor_search.workloads import NO_OWN

AUTO, SUPERNET, DIRECT = "auto", "supernet", "direct"
SHARED_PHASE = "shared network"
_PATIENCE = 0.8
"""The share of the search's time that a shared network may take, with its scoring."""


@dataclass(frozen=True)
class Course:
    """The strategy that was chosen.

    Attributes:
        name: "supernet" or "direct".
        why: it was.
        plan: what to do; its trials are the strategy's own where none were asked for.
        phases: the time plan.
        instead: the direct course, where this one may come to nothing.
    """

    name: str
    why: str
    plan: SearchPlan
    phases: tuple[Phase, ...]
    instead: "Course | None" = None

    @property
    def told(self) -> str:
        """What was chosen and why, in one line."""
        return f"strategy {self.name}: {self.why}"

    @property
    def seconds_per_image(self) -> float:
        """Of training, one at a time."""
        search_phase = next(phase for phase in self.phases if phase.name == SEARCH)
        return search_phase.seconds_each / max(1, search_phase.images * search_phase.epochs)


def choose_course(
    asked: str, plan: SearchPlan, trials_asked: int, phases: Sequence[Phase], measurer: Measurer
) -> Course:
    """Choose a strategy.

    Args:
        asked: "auto", "supernet" or "direct".
        plan: as the direct strategy would do it.
        trials_asked: by the user; 0: none, so that each strategy takes its own number.
        phases: the time plan of the direct strategy: search, then confirmation.
        measurer: its run tells what an interrupted call chose.
    """
    search_phase, confirm_phase = phases
    shared_seconds = cache(lambda: _shared_seconds(plan, search_phase, confirm_phase, measurer))
    name, why = _choice(asked, plan, search_phase, shared_seconds, measurer)
    direct = Course(DIRECT, why, plan, tuple(phases))
    if name == DIRECT:
        return direct
    own = TRIALS if len(plan.budgets) == 1 else max(TRIALS_FOR_MANY, 2 * len(plan.budgets))
    plan = replace(plan, trials=trials_asked or min(own, plan.trials))
    confirm_phase = replace(confirm_phase, trainings=_confirmations(plan, confirm_phase))
    phases = (replace(search_phase, trainings=plan.trials), confirm_phase)
    if not is_of_network(measurer.run.folder):
        shared = Phase(SHARED_PHASE, 1, confirm_phase.images, confirm_phase.epochs, shared_seconds())
        phases = (shared, *phases)
    return Course(name, why, plan, phases, direct)


def follow(course: Course, measurer: Measurer, observer: Observer) -> tuple[Course, Sensitivity | None]:
    """Do what the course needs before any trial: the shared network, where it has one.

    Returns:
        The course and the scores; a network that does not learn, or for which the memory does not last, is told, and
        the course is the direct one then.
    """
    if course.name == DIRECT:
        return course, None
    plan, clock = course.plan, SearchClock(measurer.run)
    is_new = SHARED_PHASE in [phase.name for phase in course.phases]
    has_begun = is_new or unfinished_files(measurer.run)[1].exists()  # a network that is trained is being scored
    if is_new:
        observer.phase(SHARED_PHASE, 1)
    deadline = monotonic() + plan.timeout_seconds - clock.seconds
    asked = SharedPlan(plan.space, sizes(plan), plan.seed, course.seconds_per_image, deadline, clock.write)
    try:
        found = shared_scores(asked, measurer, observer)
    except SharedNetworkError as error:
        assert course.instead is not None
        observer.message(f"{error}; going on with the direct strategy")
        return replace(course.instead, why=str(error)), None
    finally:
        if has_begun:
            clock.write()
    return course, found


def search_by(
    course: Course, found: Sensitivity | None, measurer: Measurer, observer: Observer, team: Team | None = None
) -> Finalists | None:
    """The trials of a course.

    Returns:
        The finalists that it names, None where they follow from the measurements.
    """
    measurer.run.begin_with(course.name)
    if found is None:
        search(course.plan, measurer, observer, team)
        return None
    return supernet_search(course.plan, found, measurer, observer, team)


def _shared_seconds(plan: SearchPlan, search_phase: Phase, confirm_phase: Phase, measurer: Measurer) -> float:
    """What a shared network takes: a training on all images, and its scores."""
    each = search_phase.seconds_each / max(1, search_phase.images * search_phase.epochs)
    scored = SharedPlan(plan.space, sizes(plan), plan.seed, each)
    scoring = most_scores(scored) * scoring_seconds(measurer, scored.opened)
    return each * confirm_phase.images * confirm_phase.epochs + scoring


def _choice(
    asked: str, plan: SearchPlan, search_phase: Phase, shared_seconds: Callable[[], float], measurer: Measurer
) -> tuple[str, str]:
    space = plan.space
    if asked == DIRECT:
        return DIRECT, "as asked"
    if reason := why_not_shared(space) or _not_ours(measurer):
        return DIRECT, reason
    if asked == SUPERNET:
        return SUPERNET, "as asked"
    if begun := _begun_with(measurer):
        return begun, "as this run was begun"
    if len(space.variables) == 1:
        return DIRECT, "there is a single choice, whose rates are trained one by one"
    if space.size <= plan.trials:
        return DIRECT, f"all {space.size} allocations can be trained"
    cost, budgeted = shared_seconds(), min(search_phase.seconds, plan.timeout_seconds)
    if cost > _PATIENCE * budgeted:
        return DIRECT, (
            f"a shared network would take about {cost:.0f} s of the {budgeted:.0f} s that the search has; "
            "--timeout and --trials give it more"
        )
    scored = opened(space)
    return SUPERNET, (
        f"one shared training of about {cost:.0f} s, the cost of {cost / search_phase.seconds_each:.1f} of "
        f"{search_phase.trainings} trials, tells of all {scored.size:,} allocations of {len(scored.variables)} choices"
    )


def _begun_with(measurer: Measurer) -> str:
    """The strategy that a run was begun with; "" where nothing was trained or scored yet.

    Where what was written down is lost, it is what the folder tells.
    """
    run = measurer.run
    has_network = is_of_network(run.folder) or unfinished_files(run)[0].exists()
    if not has_network and not any(m.phase == SEARCH for m in run.measurements):
        return ""
    if run.begun_with in (SUPERNET, DIRECT):
        return run.begun_with
    return SUPERNET if has_network else DIRECT


def _confirmations(plan: SearchPlan, direct: Phase) -> int:
    """Confirming trainings, rules of thumb that win over the model of several budgets not counted."""
    seeds = direct.trainings // (len(plan.budgets) * (FINALISTS + 1) + 1)
    each = 3 + len(GAMMAS) if len(plan.budgets) == 1 else 2
    return seeds * (len(plan.budgets) * each + 1)


def _not_ours(measurer: Measurer) -> str:
    """Why a shared network cannot be trained and scored as the trials are, "" if it can."""
    if measurer.agree is not alone:
        return "workers that share a storage train trials side by side, and a shared network is trained by one"
    if measurer.own != NO_OWN:
        return "a training loop or a metric of one's own knows no shared network"
    if measurer.data.train.labels.is_floating_point():
        return "a shared network is scored by its share of right classes, and the targets are floats"
    return ""
