"""Ties that are found in a model, and spaces with and without them."""

import pytest
from hypothesis import given

from flexor_search.errors import UsageError
from flexor_search.planning import Budget, LayerSpec, make_space, nearest_uniform, project, size_rule
from flexor_search.planning.space_file import MANY_LAYERS, SpaceFile
from flexor_search.planning.ties import found_ties, opened, refined, tied

from .strategies import layer, model_of, models


def resnet20():
    found, channels = [layer("conv1", 16, 1, 3, 3)], 16
    for stage, wide in enumerate((16, 32, 64), start=1):
        for block in range(3):
            found.append(layer(f"layer{stage}.{block}.conv1", wide, channels, 3, 3))
            found.append(layer(f"layer{stage}.{block}.conv2", wide, wide, 3, 3))
            channels = wide
    return model_of(*found, layer("linear", 10, 64))


def space_of(**file):
    return make_space(resnet20(), SpaceFile.model_validate(file))


def groups(space):
    return [variable.layers for variable in space.variables]


def test_a_network_of_many_layers_is_tied_by_stage_and_shape_without_being_asked():
    space = make_space(resnet20())
    sizes = {names[0]: len(names) for names in groups(space)}
    assert sizes == {
        "layer1.0.conv1": 6,
        "layer2.0.conv1": 1,
        "layer2.0.conv2": 5,
        "layer3.0.conv1": 1,
        "layer3.0.conv2": 5,
    }
    assert space.size == 20**5


def test_a_file_says_what_is_tied():
    assert len(space_of().variables) == 18 > MANY_LAYERS
    assert len(space_of(ties="none").variables) == 18
    assert len(space_of(ties="found").variables) == 5
    some = space_of(ties="found", layer=[{"match": "layer1.0.*", "rates": ["8/20", "10/20"]}])
    assert groups(some)[:2] == [
        ("layer1.0.conv1", "layer1.0.conv2"),
        tuple(f"layer1.{block}.conv{i}" for block in (1, 2) for i in (1, 2)),
    ]
    own = space_of(ties="found", tie=[{"match": "layer[12].*"}])
    assert len(groups(own)[0]) == 12
    assert len(own.variables) == 3


@given(models())
def test_every_layer_is_in_one_group_of_its_shape(model):
    found = found_ties(model.layers)
    assert sorted(name for names in found for name in names) == sorted(one.name for one in model.layers)
    for names in found:
        assert len({model.by_name[name].weight_shape for name in names}) == 1


def test_opened_and_tied_again_is_the_same():
    space = make_space(resnet20())
    free = opened(space)
    assert len(free.variables) == 18
    assert tied(free, groups(space)).variables == space.variables
    with pytest.raises(UsageError, match="every searched layer must be in one group"):
        tied(free, groups(space)[1:])
    other = opened(space_of(ties="found", layer=[{"match": "layer1.0.conv1", "rates": ["8/20"]}]))
    with pytest.raises(UsageError, match="different menus"):
        tied(other, groups(space))


def test_only_ties_that_were_found_are_opened():
    space = space_of(ties="found", tie=[{"match": "layer1.0.*"}])
    assert ("layer1.0.conv1", "layer1.0.conv2") in groups(space)
    assert [len(names) for names in space.found_ties] == [4, 5, 5]
    free = opened(space)
    assert groups(free)[:2] == [("layer1.0.conv1", "layer1.0.conv2"), ("layer1.1.conv1",)]
    order = [one.name for one in resnet20().layers]
    assert [names[0] for names in groups(free)] == [order[1], *order[3:-1]]
    assert free.found_ties == ()
    assert opened(free) is free


def test_refined_lets_single_layers_go():
    space = make_space(resnet20())
    assert groups(refined(space, ())) == groups(space)
    some = groups(refined(space, {"layer1.1.conv2", "layer3.0.conv2"}))
    assert ("layer1.1.conv2",) in some
    assert ("layer3.0.conv2",) in some
    assert sorted(map(len, some)) == [1, 1, 1, 1, 4, 5, 5]
    assert len(opened(space).variables) == 18


@pytest.mark.parametrize("file", [{}, {"ties": "none"}, {"tie": [{"match": "layer1.*"}]}])
def test_a_space_whose_ties_are_of_a_file_has_none_that_were_found(file):
    space = space_of(**file)
    assert space.found_ties == ()
    assert opened(space) is space


MIXED = {
    "default": {
        "rates": ["4-20/20"],
        "more": [
            {"rates": ["1-4/20"], "families": ["dense"]},
            {"rates": ["11-20/20"], "planes": [2]},
            {"rates": ["8/20"], "families": ["taps"], "n_tap": 3, "code_seed": 5},
        ],
    }
}


def test_a_menu_can_have_dense_rows_at_low_rates_and_two_planes_above_one_bit():
    menu = space_of(**MIXED).variables[0].menu
    assert len(menu) == 17 + 4 + 10 + 1
    assert LayerSpec("dense", 1) == menu[0]
    assert LayerSpec("dense", 4) in menu
    assert LayerSpec(n_in=4) in menu
    assert LayerSpec("taps", 8, n_tap=3, code_seed=5) in menu
    assert menu[-1] == LayerSpec(n_in=20, n_planes=2)
    assert [spec.rate for spec in menu] == sorted(spec.rate for spec in menu)


def test_a_layer_with_rates_of_its_own_has_its_own_more():
    space = space_of(
        **MIXED, layer=[{"match": "layer1.*", "rates": ["8/20", "9/20"]}, {"match": "layer2.*", "more": []}]
    )
    menus = {variable.layers[0]: variable.menu for variable in space.variables}
    assert [spec.label for spec in menus["layer1.0.conv1"]] == ["8/20", "9/20"]
    assert len(menus["layer2.0.conv1"]) == 17
    assert len(menus["layer3.0.conv1"]) == 32
    with pytest.raises(Exception, match="more"):
        SpaceFile.model_validate({"default": {"more": [{"planes": [2]}]}})


@pytest.mark.parametrize("text", ["0.1bpw", "0.9bpw", "1.4bpw", "1.999bpw", "60kB", "0.05x"])
def test_budgets_below_and_above_one_bit_are_met_by_rules_and_projection(text):
    space, budget = space_of(**MIXED), Budget.parse(text)
    for allocation in (
        nearest_uniform(space, budget),
        size_rule(space, budget, 0.5),
        project(space, space.dearest, budget),
    ):
        assert allocation is not None
        assert budget.fits(allocation, space.model_name)
    used = project(space, space.dearest, budget)
    if text == "1.4bpw":
        assert used.bits_per_weight > 1.3
        assert any(spec.n_planes == 2 for spec in used.specs)
        uniform = nearest_uniform(space, budget)
        assert uniform is not None
        assert {spec.label for spec in uniform.specs if not spec.is_kept} <= {"2x13/20", "2x14/20"}  # padding counts
