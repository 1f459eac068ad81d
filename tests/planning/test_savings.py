"""What economies save, against files that are really written without them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from safetensors.numpy import save
from torch import nn

from flexor_search.packing import pack, to_bytes
from flexor_search.planning import Allocation, LayerSpec, file_layout, savings
from flexor_search.planning.file_layout import METADATA_KEY, metadata_text
from flexor_search.quantization import describe, quantize_

from .strategies import allocations, layer, model_of

NAMES = ["recoding", "code table", "container", "folding", "rounding"]


def saved(allocation):
    return {saving.name: saving.saved_bytes for saving in savings(allocation)}


@given(allocations())
def test_every_economy_is_told_and_recoding_costs_no_more_than_the_headers_alignment(allocation):
    found = savings(allocation)
    assert [saving.name for saving in found] == NAMES
    folds = any(layer.folded_norm for layer in allocation.model.layers)
    assert [saving.rounds for saving in found] == [False, False, False, folds, allocation.kept_dtype == "float16"]
    assert found[1].saved_bytes >= 0
    assert found[0].saved_bytes > -8  # a code that is listed then says so in the header, which grows by eights
    if allocation.kept_dtype == "float32":
        assert found[-1].saved_bytes == 0


def test_recoding_by_hand():
    """Two taps in every row of 3 inputs have rank 2: a plane of 5 slices fewer for each of two layers."""
    ring = LayerSpec("matrix", 3, 3, matrix=((0, 1), (1, 2), (0, 2)))
    model = model_of(layer("a", 3, 5), layer("b", 5, 3))
    allocation = Allocation.of(model, {"a": ring, "b": ring})
    assert saved(allocation)["recoding"] == 2  # the code table has a byte a row either way
    assert saved(Allocation.of(model, {"a": LayerSpec(n_in=3, n_out=3)}))["recoding"] == 0


def test_rounding_is_the_difference_to_a_float32_file():
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))
    sizes = {}
    for dtype in ("float16", "float32"):
        allocation = Allocation.of(describe(net), {"0": LayerSpec()}, dtype)
        sizes[dtype] = len(to_bytes(pack(quantize_(rebuilt(net), allocation), allocation), allocation))
    rounding = saved(Allocation.of(describe(net), {"0": LayerSpec()}))["rounding"]
    assert rounding == sizes["float32"] - sizes["float16"] > 0


def rebuilt(net):
    return nn.Sequential(
        *(type(part)(part.in_features, part.out_features) if hasattr(part, "bias") else nn.ReLU() for part in net)
    )


class Normed(nn.Module):
    """Folds its batch norm where it can be traced."""

    def __init__(self, traceable):
        super().__init__()
        self.conv, self.norm, self.traceable = nn.Conv2d(4, 20, 3, bias=False), nn.BatchNorm2d(20), traceable

    def forward(self, x):
        if not self.traceable and x.sum() > 1e9:  # which no tracer follows
            x = -x
        return self.norm(self.conv(x))


@pytest.mark.parametrize("n_in", [8, 20])
def test_folding_is_the_difference_to_the_file_of_a_model_that_cannot_be_traced(n_in):
    files = {}
    for traceable in (True, False):
        model = Normed(traceable)
        allocation = Allocation.of(describe(model), {"conv": LayerSpec(n_in=n_in)})
        files[traceable] = len(to_bytes(pack(quantize_(model, allocation), allocation), allocation))
    folding = saved(Allocation.of(describe(Normed(True)), {"conv": LayerSpec(n_in=n_in)}))["folding"]
    assert folding == files[False] - files[True] > 0
    assert saved(Allocation.of(describe(Normed(False)), {"conv": LayerSpec(n_in=n_in)}))["folding"] == 0


def test_the_container_is_the_difference_to_a_file_of_separate_tensors():
    model = model_of(layer("a", 4, 10, bias=True), layer("b", 2, 10))
    allocation = Allocation.of(model, {"a": LayerSpec(n_in=8)})
    layout = file_layout(allocation)
    tensors = {
        "codes.0": np.zeros((20, 1), np.uint8),
        "a.payload.0": np.zeros((8, 1), np.uint8),
        "a.scale": np.zeros((1, 4), np.float16),
        "a.bias": np.zeros(4, np.float16),
        "b.weight": np.zeros((2, 10), np.float16),
    }
    metadata = layout.metadata | {"kept": [], "exact": []}
    assert (
        saved(allocation)["container"]
        == len(save(tensors, {METADATA_KEY: metadata_text(metadata)})) - layout.file_bytes
    )


def test_the_code_table_by_hand():
    """Three planes of 4/6: each would list 4 identity rows and 2 of two taps, with a count for each row."""
    model = model_of(layer("a", 4, 10), layer("b", 2, 10))
    allocation = Allocation.of(model, {"a": LayerSpec(n_in=4, n_out=6), "b": LayerSpec(n_in=4, n_out=6)})
    assert saved(allocation)["code table"] == 2 * (4 * 2 + 2 * 3) - 6


def test_planning_needs_no_model_to_be_built():
    with torch.device("meta"):
        shape = describe(Normed(True))
    assert saved(Allocation.of(shape, {"conv": LayerSpec()}))["folding"] > 0
