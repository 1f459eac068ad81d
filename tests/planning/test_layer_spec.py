import json

import pytest
from hypothesis import given

from flexor_search.codes import XorCode, gf2_rank, make_code
from flexor_search.errors import UsageError
from flexor_search.planning import KEPT, LayerSpec

from .strategies import specs


@given(specs())
def test_json_round_trip(spec):
    assert LayerSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_json_says_only_what_is_not_the_default():
    assert LayerSpec("taps", 8, 20).to_json() == {"family": "taps", "n_in": 8, "n_out": 20}
    assert LayerSpec.from_json({"family": "kept"}) == KEPT


@given(specs())
def test_rates_count_every_plane(spec):
    assert len(spec.codes) == spec.n_planes
    assert spec.ranks == tuple(gf2_rank(code.matrix) for code in spec.codes)
    assert spec.rate == (sum(spec.ranks) / spec.n_out if spec.codes else 0)
    assert spec.rate <= spec.nominal_rate
    assert spec.is_kept == (spec.codes == ())


def test_planes_are_drawn_with_consecutive_seeds():
    spec = LayerSpec("taps", 8, 20, n_planes=3, n_tap=3, code_seed=5)
    assert spec.codes == tuple(make_code("taps", 8, 20, n_tap=3, seed=seed) for seed in (5, 6, 7))


def test_a_users_code_is_used_in_every_plane():
    code = XorCode(2, ((0,), (1,), (0, 1)))
    assert LayerSpec.from_code(code, 2).codes == (code, code)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (KEPT, "kept"),
        (LayerSpec(n_in=12), "12/20"),
        (LayerSpec(n_in=8, n_planes=2), "2x8/20"),
        (LayerSpec("taps", 12), "12/20 taps"),
    ],
)
def test_labels(spec, label):
    assert spec.label == label


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "tap"}, "'tap' is not a code family; did you mean 'taps'?"),
        ({"family": "matrix"}, "matrix: goes with family 'matrix'"),
        ({"matrix": ((0,),)}, "matrix: goes with family 'matrix'"),
        ({"n_in": 0}, "rate: needs 1 <= n_in <= n_out <= 256, got 0/20"),
        ({"n_in": 21}, "got 21/20"),
        ({"n_out": 257}, "got 20/257"),
        ({"n_planes": 0}, "n_planes: must be from 1 to 8, got 0"),
        ({"n_planes": 9}, "n_planes: must be from 1 to 8, got 9"),
        ({"n_tap": 0}, "n_tap: must be at least 1"),
        ({"code_seed": -1}, "code_seed not negative"),
        ({"family": "matrix", "n_in": 2, "n_out": 3, "matrix": ((0,), (1,))}, "must have n_out = 3 rows, got 2"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        LayerSpec(**fields)


def test_a_matrix_that_is_no_code_is_refused_when_it_is_used():
    with pytest.raises(UsageError, match="matrix: taps: row 1 is empty"):
        _ = LayerSpec("matrix", 1, 2, matrix=((0,), ())).codes


@pytest.mark.parametrize(
    "body",
    [None, [], "8/20", {"rate": 8}, {"n_in": "8"}, {"family": "matrix", "matrix": 5}],
)
def test_json_that_is_no_layer_is_refused(body):
    with pytest.raises(UsageError, match="a layer must be an object of LayerSpec fields"):
        LayerSpec.from_json(body)
