"""Ties give way only where the measurements say so."""

import math

import numpy as np
import pytest
from planning.strategies import layer, model_of

from flexor_search.planning import make_space
from flexor_search.planning.space_file import SpaceFile
from flexor_search.planning.ties import found_ties, tied, untied
from flexor_search.tuning import SHARED, Observation, fit_accuracy_model
from flexor_search.tuning.refine import supported_ties

MODEL = model_of(*(layer(f"blocks.{i}", 40, 40) for i in range(6)), *(layer(f"head.{i}", 20, 40) for i in range(2)))
SPACE = untied(make_space(MODEL, SpaceFile.model_validate({"keep": [], "ties": "found"})))
GROUPS = found_ties(MODEL.layers)


def fitted(slopes, count, noise, seed=0):
    random = np.random.default_rng(seed)
    profiles = [tuple(int(i) for i in random.integers(0, 20, len(slopes))) for _ in range(count)]
    values = [sum(s * math.log((i + 1) / 20) for s, i in zip(slopes, p, strict=True)) for p in profiles]
    return fit_accuracy_model(
        SPACE,
        [
            Observation(SPACE.allocation(p), 0.01 * value + noise * random.standard_normal(), SHARED)
            for p, value in zip(profiles, values, strict=True)
        ],
    )


def test_a_layer_that_matters_three_times_as_much_is_let_go():
    found = supported_ties(fitted([1, 1, 1, 1, 1, 3, 0.5, 0.5], 200, 0.003), GROUPS)
    assert ("blocks.5",) in found
    assert sum(map(len, found)) == 8
    assert max(map(len, found)) >= 4
    assert len(tied(SPACE, found).variables) == len(found)


@pytest.mark.parametrize("seed", range(3))
def test_layers_that_are_alike_stay_tied_for_the_most_part(seed):
    found = supported_ties(fitted([1] * 6 + [0.5] * 2, 120, 0.01, seed), GROUPS)
    assert len(found) <= 4


def test_few_values_untie_nothing():
    assert supported_ties(fitted([1, 1, 1, 1, 1, 3, 0.5, 0.5], 6, 0.02), GROUPS) == GROUPS
