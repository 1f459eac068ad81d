import math
import tomllib

import pytest

from flexor_search.errors import ModelError, UsageError
from flexor_search.planning import KEPT, LayerSpec, ModelShape, make_space, read_space_file, shipped_spaces
from flexor_search.planning.space_file import SpaceFile

from .strategies import LENET5, layer, model_of

NET = model_of(
    layer("stem", 8, 1, 3, 3),
    layer("stage1.0", 16, 8, 3, 3),
    layer("stage1.1", 16, 16, 3, 3),
    layer("stage2.0", 32, 16, 3, 3),
    layer("stage2.1", 32, 32, 3, 3),
    layer("head", 10, 32),
)
BODY = ("stage1.0", "stage1.1", "stage2.0", "stage2.1")
EVERY = tuple(one.name for one in NET.layers)


def space_of(text, model=NET):
    return make_space(model, SpaceFile.model_validate(tomllib.loads(text)))


def menus(space):
    return {name: variable.menu for variable in space.variables for name in variable.layers}


def rates(*counts, n_out=20, **more):
    return tuple(LayerSpec(n_in=n_in, n_out=n_out, **more) for n_in in counts)


def test_without_a_file_every_rate_of_twenty_is_searched_and_the_ends_are_kept():
    space = make_space(NET, model_name="net")
    assert menus(space) == dict.fromkeys(BODY, rates(*range(1, 21)))
    assert dict(space.kept_reasons) == {"stem": "first layer", "head": "last Linear"}
    assert space.searched == (False, True, True, True, True, False)
    assert (space.kept_dtype, space.model_name, space.size) == ("float16", "net", 20**4)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (model_of(layer("a", 10, 10)), []),
        (model_of(layer("a", 10, 10), layer("b", 10, 10)), []),
        (model_of(layer("a", 10, 10), layer("b", 10, 20), layer("c", 10, 10)), ["a", "c"]),  # a quarter each
        (model_of(layer("a", 10, 10), layer("b", 10, 20), layer("c", 10, 11)), ["a"]),
        (model_of(layer("a", 1, 9), layer("b", 90, 9), layer("c", 9, 1, 3, 3)), ["a"]),  # the last Linear is b
        (model_of(layer("a", 4, 1, 3, 3), layer("b", 4, 99, 3, 3), layer("c", 9, 1, 3, 3)), ["a"]),  # there is none
        (LENET5, ["conv1", "fc2"]),
    ],
)
def test_the_first_layer_and_the_last_linear_are_kept_unless_above_a_quarter(model, kept):
    assert [name for name, _ in make_space(model).kept_reasons] == kept


def test_a_file_says_what_is_kept():
    assert menus(space_of("keep = []")).keys() == set(EVERY)
    space = space_of('keep = ["stage2.*", "head"]\nkept_dtype = "float32"')
    assert dict(space.kept_reasons) == {
        "stage2.0": "keep = 'stage2.*'",
        "stage2.1": "keep = 'stage2.*'",
        "head": "keep = 'head'",
    }
    assert menus(space).keys() == {"stem", "stage1.0", "stage1.1"}
    assert space.cheapest.kept_dtype == "float32"


def test_a_rate_of_kept_keeps_the_layer_or_is_one_choice_of_several():
    space = space_of(
        'keep = []\n[[layer]]\nmatch = "stem"\nrates = ["kept"]\n[[layer]]\nmatch = "head"\nrates = ["kept", "12/20"]'
    )
    assert dict(space.kept_reasons) == {"stem": "kept by the space"}
    assert menus(space)["head"] == (LayerSpec(n_in=12), KEPT)


def test_of_the_patterns_that_match_the_last_counts_and_one_rate_fixes_the_layer():
    space = space_of(
        '[default]\nrates = ["4/20", "8/20"]\n[[layer]]\nmatch = "stage*"\nrates = ["16/20"]\n'
        '[[layer]]\nmatch = "stage2.?"\nrates = ["2-4/20"]'
    )
    one, two = rates(16), rates(2, 3, 4)
    assert menus(space) == dict(zip(BODY, (one, one, two, two), strict=True))
    assert space.size == 9


def test_a_menu_is_the_product_of_its_lists_by_ascending_rate():
    space = space_of(
        '[default]\nrates = ["8/20", "4/10", "1/8"]\nfamilies = ["systematic", "taps"]\nplanes = [1, 2]\n'
        "n_tap = 3\ncode_seed = 5"
    )
    menu = menus(space)["stage1.0"]
    assert len(menu) == len(set(menu)) == 12
    assert {(spec.n_tap, spec.code_seed) for spec in menu} == {(3, 5)}
    assert [spec.rate for spec in menu] == sorted(spec.rate for spec in menu)
    assert math.isclose(menu[-1].nominal_rate, 0.8)


def test_a_layer_table_adds_to_the_default_what_it_leaves_out():
    space = space_of('[default]\nrates = ["4/20"]\nplanes = [2]\n[[layer]]\nmatch = "stage1.0"\nfamilies = ["random"]')
    assert menus(space)["stage1.0"] == (LayerSpec("random", 4, 20, 2),)
    assert menus(space)["stage1.1"] == (LayerSpec(n_in=4, n_planes=2),)


def test_a_matrix_takes_the_place_of_the_rates():
    space = space_of('[[layer]]\nmatch = "stage1.0"\nmatrix = [[1, 0], [0, 1], [1, 1]]\nplanes = [1, 2]')
    assert [spec.label for spec in menus(space)["stage1.0"]] == ["2/3 matrix", "2x2/3 matrix"]
    assert menus(space)["stage1.0"][0].codes[0].taps == ((0,), (1,), (0, 1))
    default = space_of('[default]\nmatrix = [[1], [1]]\n[[layer]]\nmatch = "stage2.*"\nrates = ["8/20"]')
    assert menus(default)["stage1.0"][0].label == "1/2 matrix"
    assert menus(default)["stage2.0"] == rates(8)


def test_tied_layers_are_one_variable():
    space = space_of('[[tie]]\nmatch = "stage1.*"\n[[tie]]\nmatch = "*2.*"')
    assert [variable.name for variable in space.variables] == ["stage1.0+stage1.1", "stage2.0+stage2.1"]
    assert space.size == 400
    assert len({space.allocation((2, 5)).layers[name] for name in BODY[:2]}) == 1


def test_a_tie_leaves_out_the_layers_that_are_kept():
    assert [variable.layers for variable in space_of('[[tie]]\nmatch = "*"').variables] == [BODY]


LAYER = '[[layer]]\nmatch = "stage1.0"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('keep = ["stage3.*"]', r"pattern 'stage3\.\*' matches no layer; did you mean 'stage"),
        ('[[layer]]\nmatch = "haed"\nrates = ["8/20"]', "pattern 'haed' matches no layer; did you mean 'head'"),
        ('[[tie]]\nmatch = "conv*"', r"pattern 'conv\*' matches no layer; .*known: head, stage1\.0"),
        ('keep = ["*"]', "no layer is left to search"),
        ('[[tie]]\nmatch = "stem"', "every layer tied by 'stem' is kept"),
        (f'{LAYER}rates = ["8/20"]\n[[tie]]\nmatch = "stage1.*"', r"tied by 'stage1\.\*' have different menus"),
        ('[[tie]]\nmatch = "stage1.*"\n[[tie]]\nmatch = "*.1"', r"tied twice, the second time by '\*\.1'"),
        ('[[tie]]\nmatch = "*.1"\n[[tie]]\nmatch = "stage1.*"', r"tied twice, the second time by 'stage1\.\*'"),
        (f"{LAYER}rates = []", "a menu is empty"),
        (f"{LAYER}planes = []", "a menu is empty"),
        (f'{LAYER}rates = ["8"]', "rate '8' must look like '12/20', '1-20/20' or 'kept'"),
        (f'{LAYER}rates = ["8/20/2"]', "rate '8/20/2' must look like"),
        (f'{LAYER}rates = ["a/20"]', "rate 'a/20' must look like"),
        (f'{LAYER}rates = ["-8/20"]', "rate '-8/20' must look like"),
        (f'{LAYER}rates = ["8/20", "9-4/20"]', "rate '9-4/20' must look like"),
        (f'{LAYER}rates = ["0/20"]', "needs 1 <= n_in <= n_out <= 256, got 0/20"),
        (f'{LAYER}rates = ["21/20"]', "needs 1 <= n_in <= n_out <= 256, got 21/20"),
        (f'{LAYER}families = ["tap"]', "'tap' is not a code family; did you mean 'taps'"),
        (f"{LAYER}planes = [9]", "n_planes: must be from 1 to 8"),
        (f"{LAYER}matrix = [[1, 0], [0, 0]]", "space: taps: row 1 is empty"),
        (f"{LAYER}matrix = [[2]]", "space: matrix: must be two-dimensional"),
        (f"{LAYER}matrix = []", "space: matrix: must be two-dimensional"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        space_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kept_dtyp = "float16"', "unknown key 'kept_dtyp'; did you mean 'kept_dtype'"),
        ('[default]\nrate = ["8/20"]', r"unknown key 'default\.rate'; did you mean 'rates'"),
        ('[[layer]]\nmatch = "a"\nfamily = ["taps"]', r"unknown key 'layer\.0\.family'; did you mean 'families'"),
        ('[[tie]]\nmatc = "a"', r"tie\.0\.match: field required"),
        ('kept_dtype = "float64"', "kept_dtype: input should be 'float16' or 'float32', got 'float64'"),
        ('[default]\nrates = "8/20"', r"default\.rates: input should be a valid list, got '8/20'"),
        ("[default]\nplanes = [1.5]", r"default\.planes\.0: .*integer, got 1\.5"),
        ("keep = [", "is not readable TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"space: .*mine\.toml.*{message}"):
        read_space_file(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not readable TOML"):
        read_space_file(tmp_path / "mine.toml")


def test_a_name_that_is_neither_file_nor_shipped_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="no file 'lenet' and no shipped space of that name; did you mean 'lenet5'"):
        read_space_file("lenet")


def test_a_model_without_layers_is_refused():
    with pytest.raises(ModelError, match="no quantizable layer"):
        make_space(ModelShape((), (), 0))


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_is_readable(name):
    assert read_space_file(name) == read_space_file(shipped_spaces()[name])


def test_the_space_of_lenet5_keeps_nothing():
    space = make_space(LENET5, read_space_file("lenet5"))
    assert space.kept_reasons == ()
    assert all(space.searched)
    assert (space.cheapest.bits_per_weight, space.dearest.bits_per_weight) == (0.05, 1.0)


@pytest.mark.parametrize("shape", [(0, 5), (64, 0)])
def test_a_layer_without_weights_is_kept(shape):
    net = model_of(layer("a", 8, 8), layer("b", *shape), layer("c", 40, 8), layer("d", 4, 40))
    space = make_space(net, SpaceFile(keep=[]))
    assert [variable.name for variable in space.variables] == ["a", "c", "d"]
    assert dict(space.kept_reasons) == {"b": "no weights"}
