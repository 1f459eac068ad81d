"""The figures as plotly figures, for the pages and for notebooks: from tables, or straight from runs."""

import plotly.graph_objects as go

from flexor_search.reporting import comparison, tables
from flexor_search.reporting.comparison_figure import fronts, hypervolume_curves
from flexor_search.reporting.front_figure import Beside, pareto
from flexor_search.reporting.progress_figure import SECONDS, TRAININGS, progress
from flexor_search.reporting.published import published_for
from flexor_search.reporting.words import in_words_of
from flexor_search.runs import Run

__all__ = [
    "SECONDS",
    "TRAININGS",
    "Beside",
    "comparison_figure",
    "fronts",
    "hypervolume_curves",
    "pareto",
    "pareto_figure",
    "progress",
    "progress_figure",
]


def pareto_figure(run: Run) -> go.Figure:
    """Accuracy against size of everything that a run trained, finished or not."""
    with in_words_of(run.question):
        return _pareto(run)


def _pareto(run: Run) -> go.Figure:
    points = tables.points(run)
    budgets = [str(budget) for budget in run.question.get("budgets") or []]
    chosen = tables.chosen_digests(run, run.summary())
    known = published_for(run.question)
    return pareto(points, tables.front(run), Beside(tables.budget_places(points, budgets), chosen, known))


def progress_figure(run: Run, against: str = TRAININGS) -> go.Figure:
    """How a run's search went, against TRAININGS or SECONDS."""
    table = tables.progress(run)
    with in_words_of(run.question):
        return progress(table, tables.uniform_level(table), against)


def comparison_figure(runs: list[Run]) -> go.Figure:
    """The fronts of several runs over each other."""
    with in_words_of(runs[0].question):
        return fronts(comparison.fronts(runs))
