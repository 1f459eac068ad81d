"""How allocations are chosen: baselines, what a model of accuracy proposes, confirmation with fresh seeds."""

from flexor_search.tuning.accuracy_model import (
    SHARED,
    SHARED_LOSS,
    TRAINED,
    AccuracyModel,
    Observation,
    Sensitivity,
    fit_accuracy_model,
)
from flexor_search.tuning.confirm import (
    FINALISTS,
    Group,
    choose,
    confirm,
    confirmation_seeds,
    finalists,
    groups,
)
from flexor_search.tuning.direct import search
from flexor_search.tuning.fitted import allocation_of, model_of_run
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer, Phase, Silent
from flexor_search.tuning.proposals import SearchPlan
from flexor_search.tuning.shared_study import SharedStudy
from flexor_search.tuning.shared_team import WORKERS_EXPECTED, SharedTeam, join, settle
from flexor_search.tuning.strategy import Course, choose_course, follow, search_by
from flexor_search.tuning.summary import copy_trained, packing_lines, packing_warnings, ship, summarize
from flexor_search.tuning.team import MOST_TOGETHER, choose_team, faster_processes, models_at_a_time, trials_ahead
from flexor_search.tuning.time_plan import closed_recipe, seconds_per_image, time_plan
from flexor_search.tuning.trial import Candidate
from flexor_search.tuning.worker import load_data, remove_data
from flexor_search.tuning.workers import DataProcesses

__all__ = [
    "FINALISTS",
    "MOST_TOGETHER",
    "SHARED",
    "SHARED_LOSS",
    "TRAINED",
    "WORKERS_EXPECTED",
    "AccuracyModel",
    "Candidate",
    "Course",
    "DataProcesses",
    "Flow",
    "Group",
    "Measurer",
    "Observation",
    "Observer",
    "Phase",
    "SearchPlan",
    "Sensitivity",
    "SharedStudy",
    "SharedTeam",
    "Silent",
    "Team",
    "allocation_of",
    "choose",
    "choose_course",
    "choose_team",
    "closed_recipe",
    "confirm",
    "confirmation_seeds",
    "copy_trained",
    "faster_processes",
    "finalists",
    "fit_accuracy_model",
    "follow",
    "groups",
    "join",
    "load_data",
    "model_of_run",
    "models_at_a_time",
    "packing_lines",
    "packing_warnings",
    "remove_data",
    "search",
    "search_by",
    "seconds_per_image",
    "settle",
    "ship",
    "summarize",
    "time_plan",
    "trials_ahead",
]
