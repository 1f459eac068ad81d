"""What is decided: shapes, specs, allocations, sizes, budgets, spaces, fronts, recipes. No torch here.

Every size formula of the project is in this storey, in `file_layout` and `allocation`.
"""

from flexor_search.planning.allocation import Allocation, full_precision
from flexor_search.planning.baselines import GAMMAS, nearest_uniform, size_rule, uniform_allocations
from flexor_search.planning.budget import Budget
from flexor_search.planning.file_layout import FileLayout, file_layout
from flexor_search.planning.front import hypervolume, pareto_front
from flexor_search.planning.layer_spec import KEPT, LayerSpec
from flexor_search.planning.model_shape import LayerShape, ModelShape, TensorShape
from flexor_search.planning.recipe import Recipe
from flexor_search.planning.savings import Saving, savings
from flexor_search.planning.space import (
    SearchSpace,
    Variable,
    check_reachable,
    exceeds_space,
    project,
    project_log_rates,
)
from flexor_search.planning.space_file import make_space, read_space_file, shipped_spaces

__all__ = [
    "GAMMAS",
    "KEPT",
    "Allocation",
    "Budget",
    "FileLayout",
    "LayerShape",
    "LayerSpec",
    "ModelShape",
    "Recipe",
    "Saving",
    "SearchSpace",
    "TensorShape",
    "Variable",
    "check_reachable",
    "exceeds_space",
    "file_layout",
    "full_precision",
    "hypervolume",
    "make_space",
    "nearest_uniform",
    "pareto_front",
    "project",
    "project_log_rates",
    "read_space_file",
    "savings",
    "shipped_spaces",
    "size_rule",
    "uniform_allocations",
]
