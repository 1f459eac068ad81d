import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import UsageError
from flexor_search.planning import KEPT, Allocation, LayerSpec, full_precision

from .strategies import LENET5, allocations, layer, model_of, specs

MIXED = Allocation.of(
    LENET5,
    {"conv1": LayerSpec(n_in=19), "conv2": LayerSpec("taps", 16, 20, 2, 3, 7), "fc1": LayerSpec("random", 7)},
)


def test_the_digest_is_stable():
    assert MIXED.digest == "ba1210ce6f5cf82b"


@given(allocations())
def test_json_round_trip(allocation):
    body = json.loads(json.dumps(allocation.to_json()))
    again = Allocation.from_json(allocation.model, body)
    assert again == allocation
    assert again.digest == allocation.digest


@given(allocations(), st.data())
def test_every_difference_changes_the_digest(allocation, data):
    where = data.draw(st.integers(0, len(allocation.specs) - 1))
    spec = data.draw(specs().filter(lambda spec: spec != allocation.specs[where]))
    changed = (*allocation.specs[:where], spec, *allocation.specs[where + 1 :])
    searched = (*allocation.searched[:where], True, *allocation.searched[where + 1 :])
    other_dtype = {"float16": "float32", "float32": "float16"}[allocation.kept_dtype]
    others = [replace(allocation, specs=changed, searched=searched), replace(allocation, kept_dtype=other_dtype)]
    assert allocation.digest not in {other.digest for other in others}


def test_the_digest_knows_the_shapes_and_what_is_searched():
    model = model_of(layer("a", 4, 5), layer("b", 4, 5))
    turned = model_of(layer("a", 5, 4), layer("b", 4, 5))
    chosen = (KEPT, LayerSpec())
    found = {Allocation(one, chosen, (here, True)).digest for one in (model, turned) for here in (True, False)}
    assert len(found) == 4


@pytest.mark.parametrize(("n_in", "bits_per_weight"), [(1, 0.05), (8, 0.4), (14, 0.7), (20, 1.0)])
def test_uniform_rates_of_lenet5(n_in, bits_per_weight):
    allocation = Allocation.of(LENET5, {}, default=LayerSpec(n_in=n_in))
    assert allocation.bits_per_weight == allocation.nominal_bits_per_weight == bits_per_weight


def test_sizes_of_one_layer_by_hand():
    # 1001 weights make 51 slices of 20, in planes of 7 bytes; three two-tap codes of 8 bits have rank 7 each
    allocation = Allocation.of(model_of(layer("a", 7, 143)), {"a": LayerSpec("taps", 8, 20, 3)})
    assert [spec.ranks for spec in allocation.specs] == [(7, 7, 7)]
    assert allocation.payload_bits == allocation.weight_bits == 21 * 56
    assert allocation.bits_per_weight == 1.175  # 1176 / 1001
    assert allocation.nominal_bits_per_weight == pytest.approx(1.2)


def test_searched_layers_alone_are_counted_and_kept_ones_at_their_dtype():
    model = model_of(layer("a", 10, 16), layer("b", 10, 16), layer("c", 20, 16))
    chosen = (KEPT, LayerSpec(n_in=10), KEPT)
    half = Allocation(model, chosen, (True, True, False), "float16")
    full = Allocation(model, chosen, (True, True, False), "float32")
    assert half.n_searched_weights == 320
    assert (half.bits_per_weight, full.bits_per_weight) == (8.25, 16.25)
    assert (half.nominal_bits_per_weight, full.nominal_bits_per_weight) == (8.25, 16.25)
    assert half.payload_bits == 80
    assert half.label == "- 10/20 -"


def test_full_precision_keeps_everything_in_float32():
    allocation = full_precision(LENET5)
    assert allocation.bits_per_weight == 32
    assert allocation.payload_bits == 0
    assert set(allocation.layers) == {"conv1", "conv2", "fc1", "fc2"}


def test_layers_not_named_take_the_default_and_kept_ones_are_not_searched():
    assert MIXED.layers["fc2"] == KEPT
    assert MIXED.searched == (True, True, True, False)


def test_a_name_that_is_no_layer_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="layer: 'conv3' is not a quantizable layer; did you mean 'conv"):
        Allocation.of(LENET5, {"conv3": LayerSpec()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specs": (KEPT,)}, "needs one spec for each of 4 layers"),
        ({"searched": (True,)}, "needs one spec for each of 4 layers"),
        ({"kept_dtype": "float64"}, "kept_dtype: must be float16 or float32, got 'float64'"),
        ({"searched": (False,) * 4}, "layer 'conv1' is not searched, so it must be kept, not 19/20"),
    ],
)
def test_an_allocation_that_does_not_add_up_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(MIXED, **change)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "must be a JSON object"),
        ({"layers": []}, "must be a JSON object"),
        ({"layers": {"fc1": {"family": "kept"}}}, "are not the model's"),
        (MIXED.to_json() | {"kept_dtype": "int8"}, "kept_dtype: must be"),
        ({"layers": MIXED.to_json()["layers"]}, "kept_dtype: must be"),
        (MIXED.to_json() | {"not_searched": ["fc1"]}, "layer 'fc1' is not searched"),
    ],
)
def test_json_that_is_no_allocation_of_the_model_is_refused(body, message):
    with pytest.raises(UsageError, match=message):
        Allocation.from_json(LENET5, body)
