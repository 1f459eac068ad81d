"""sensitivity.json: what was written comes back; what is damaged or of another search is told, never half believed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search.errors import RunError
from flexor_search.planning import LayerShape, LayerSpec, ModelShape, SearchSpace, Variable
from flexor_search.runs.sensitivity import (
    FILE,
    DamagedError,
    Sensitivity,
    SharedScore,
    identity,
    read_sensitivity,
)

LAYERS = tuple(LayerShape(f"layer{i}", "Linear", (40, 40), 40, has_bias=False) for i in range(3))
FINGERPRINT = {"model": "a", "data": "b", "space": "c", "recipe": "d", "code": "e", "strategy": "auto", "format": "2"}
TOLD = Sensitivity(
    identity(FINGERPRINT),
    {"paths": "random", "train_seconds": 1.5},
    complete=True,
    model={"reference": "shared loss", "sensitivities": [{"layer": "conv1", "label": "8/20", "loss": 0.01}]},
)


def space_of(*sizes):
    """Layers with so many entries in their menus."""
    named = zip(LAYERS, sizes, strict=False)
    variables = (Variable((layer.name,), tuple(LayerSpec(n_in=1 + i) for i in range(size))) for layer, size in named)
    return SearchSpace(ModelShape(LAYERS, (), 4800), tuple(variables))


def space_and_scores(data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    space = space_of(*sizes)
    menus = [st.integers(0, len(variable.menu) - 1) for variable in space.variables]
    score = st.builds(SharedScore, st.tuples(*menus), st.floats(0, 1), st.floats(0, 50))
    return space, tuple(data.draw(st.lists(score, min_size=1, max_size=5)))


@settings(max_examples=25)
@given(st.data())
def test_it_comes_back_as_it_was_written_and_any_cut_is_damage(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    space, scores = space_and_scores(data)
    own = data.draw(st.none() | st.dictionaries(st.sampled_from([v.name for v in space.variables]), st.floats(-9, 9)))
    told = replace(TOLD, scores=scores, own_rates=own)
    told.write(folder)
    assert read_sensitivity(folder, space, FINGERPRINT | {"strategy": "supernet", "format": "3"}) == told
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])
    with pytest.raises(DamagedError, match="damaged or cut short"):
        read_sensitivity(folder, space, FINGERPRINT)


@pytest.mark.parametrize("part", ["model", "data", "space", "recipe", "code"])
def test_another_search_is_refused_and_what_differs_is_named(tmp_path, part):
    replace(TOLD, scores=(SharedScore((99,), 0.5, 1.0),)).write(tmp_path)
    with pytest.raises(RunError, match=f"what differs: {part} \\(there {TOLD.fingerprint[part]}, here x\\)") as error:
        read_sensitivity(tmp_path, None, FINGERPRINT | {part: "x"})
    assert not isinstance(error.value, DamagedError)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": [0]},
        {"profile": "00"},
        {"profile": [0, 99]},
        {"profile": [0, -1]},
        {"profile": [0, 0.0]},
        {"val_accuracy": 1.5},
        {"val_accuracy": None},
        {"val_loss": float("nan")},
        {"val_loss": "x"},
    ],
)
def test_a_score_that_cannot_be_is_damage(tmp_path, change):
    replace(TOLD, scores=(SharedScore((0, 0), 0.5, 1.0),)).write(tmp_path)
    body = json.loads((tmp_path / FILE).read_text())
    body["scores"][0] |= change
    (tmp_path / FILE).write_text(json.dumps(body))
    with pytest.raises(DamagedError):
        read_sensitivity(tmp_path, space_of(5, 5), FINGERPRINT)


@pytest.mark.parametrize("own", [{"layer7": 3.5}, {"layer0": "x"}, ["layer0"], None])
def test_a_rate_of_its_own_that_cannot_be_is_damage(tmp_path, own):
    replace(TOLD, own_rates={}).write(tmp_path)
    body = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(body | {"own_rates": own}))
    with pytest.raises(DamagedError):
        read_sensitivity(tmp_path, space_of(5, 5), FINGERPRINT)


def test_no_file_is_none(tmp_path):
    assert read_sensitivity(tmp_path, None, FINGERPRINT) is None
