"""Models, specs, allocations, spaces and budgets, made by hypothesis, and the LeNet-5 that examples speak of."""

import math
from fractions import Fraction

from hypothesis import strategies as st

from flexor_search.codes import XorCode
from flexor_search.planning import (
    KEPT,
    Allocation,
    Budget,
    LayerShape,
    LayerSpec,
    ModelShape,
    SearchSpace,
    TensorShape,
    Variable,
    file_layout,
)

ODD_NAMES = (
    "",
    "0",
    "features.0.conv",
    'a"b',
    "a\\b",
    "größe",
    "層.1",
    "🙂",
    "tab\tline\n",
    "del\x7f",
    "[x]*?",
    "a'b ",
)


def layer(name, *shape, kind="", bias=False, **more):
    """A layer whose output channels are axis 0."""
    return LayerShape(name, kind or ("Linear" if len(shape) == 2 else "Conv2d"), shape, shape[0], bias, **more)


def model_of(*layers, others=()):
    """A model of these layers; its float file holds their weights, biases and the other tensors."""
    elements = sum(one.n_weights + one.out_channels * one.has_bias for one in layers)
    return ModelShape(tuple(layers), tuple(others), elements + sum(tensor.elements for tensor in others))


LENET5 = model_of(
    layer("conv1", 32, 1, 5, 5, bias=True),
    layer("conv2", 64, 32, 5, 5, bias=True),
    layer("fc1", 512, 1024, bias=True),
    layer("fc2", 10, 512, bias=True),
)


@st.composite
def layers(draw, name):
    kind = draw(st.sampled_from(["Linear", "Conv1d", "Conv2d", "ConvTranspose2d"]))
    small = st.integers(1, 9)
    out_channels, in_channels, kernel = draw(st.integers(1, 40)), draw(small), draw(st.integers(1, 5))
    groups, shape = 0, (out_channels, in_channels)
    if kind == "Conv1d":
        shape = (out_channels, in_channels, kernel)
    elif kind == "Conv2d":
        shape = (out_channels, in_channels, kernel, draw(small))
    elif kind == "ConvTranspose2d":
        groups = draw(st.integers(1, 3))
        shape, out_channels = (groups * in_channels, out_channels, kernel, kernel), groups * out_channels
    norm = draw(st.sampled_from(["", f"{name}.norm"]))
    return LayerShape(name, kind, shape, out_channels, draw(st.booleans()), groups, norm)


@st.composite
def tensors(draw, name):
    dtype = draw(st.sampled_from(["float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool"]))
    return TensorShape(name, tuple(draw(st.lists(st.integers(0, 5), max_size=3))), dtype)


@st.composite
def models(draw, max_layers=4):
    names = draw(st.lists(st.sampled_from(ODD_NAMES) | st.text(max_size=12), min_size=1, max_size=max_layers + 3))
    names = list(dict.fromkeys(names))
    n_layers = draw(st.integers(1, min(len(names), max_layers)))
    return model_of(
        *[draw(layers(name)) for name in names[:n_layers]], others=[draw(tensors(name)) for name in names[n_layers:]]
    )


@st.composite
def specs(draw):
    """Any way to store a layer, of every family, the user's matrix and kept ones included."""
    family = draw(st.sampled_from(["systematic", "taps", "random", "matrix", "kept"]))
    if family == "kept":
        return KEPT
    n_planes = draw(st.integers(1, 3))
    if family == "matrix":
        rows = draw(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=3, max_size=12))
        return LayerSpec.from_code(XorCode(3, tuple(tuple(sorted(row)) for row in rows)), n_planes)
    n_out = draw(st.sampled_from([1, 7, 8, 20, 33]))
    n_in, n_tap = draw(st.integers(1, n_out)), draw(st.integers(1, 3))
    return LayerSpec(family, n_in, n_out, n_planes, n_tap, draw(st.integers(0, 5)))


@st.composite
def allocations(draw):
    model = draw(models())
    chosen = [draw(specs()) for _ in model.layers]
    searched = tuple(not spec.is_kept or draw(st.booleans()) for spec in chosen)
    return Allocation(model, tuple(chosen), searched, draw(st.sampled_from(["float16", "float32"])))


@st.composite
def menus(draw, kept=True):
    """A menu of one n_out, cheapest first, as a space file with one list of rates gives it."""
    counts = sorted(draw(st.sets(st.integers(1, 20), min_size=1, max_size=5)))
    last = (KEPT,) if kept and draw(st.integers(0, 5)) == 0 else ()
    return (*(LayerSpec("systematic", n_in, 20) for n_in in counts), *last)


@st.composite
def mixed_menus(draw):
    """A menu of any families, n_out and planes, cheapest first."""
    found = draw(st.lists(specs(), min_size=1, max_size=5, unique=True))
    return tuple(sorted(found, key=lambda spec: (16 if spec.is_kept else spec.rate, spec.nominal_rate)))


@st.composite
def spaces(draw, menu=None, max_variables=4):
    """A space of few variables; some tied, some layers kept outside the search."""
    model = draw(models(max_layers=5))
    names = draw(st.permutations([one.name for one in model.layers]))
    groups: list[list[str]] = [[names[0]]]
    for name in names[1:]:
        where = draw(st.sampled_from(["new", "tie", "keep"]))
        if where == "tie":
            groups[-1].append(name)
        elif where == "new" and len(groups) < max_variables:
            groups.append([name])
    dtype = draw(st.sampled_from(["float16", "float32"]))
    return SearchSpace(
        model, tuple(Variable(tuple(group), draw(menus() if menu is None else menu)) for group in groups), dtype
    )


def file_bytes(allocation):
    return file_layout(allocation).file_bytes


@st.composite
def budgets(draw, space, kinds=("bpw", "bytes", "ratio")):
    """A budget that the space can reach, from its cheapest allocation to a little above its dearest."""
    kind, share = draw(st.sampled_from(kinds)), draw(st.fractions(0, Fraction(11, 10)))
    size = (
        (lambda one: Fraction(repr(one.bits_per_weight))) if kind == "bpw" else (lambda one: Fraction(file_bytes(one)))
    )
    low = size(space.cheapest)
    wished = low + share * max(size(space.dearest) - low, 0)
    if kind == "bytes":
        return Budget.parse(f"{math.ceil(wished)}B")
    unit, scale = ("bpw", 1) if kind == "bpw" else ("x", space.model.float_bytes)
    millionths = max(math.ceil(wished / scale * 10**6), 1)
    return Budget.parse(f"{millionths // 10**6}.{millionths % 10**6:06d}{unit}")


@st.composite
def questions(draw, kinds=("bpw", "bytes", "ratio"), menu=None):
    """A space and a budget that it can reach."""
    space = draw(spaces(menu))
    return space, draw(budgets(space, kinds))


@st.composite
def profiles(draw, space):
    return tuple(draw(st.integers(0, len(variable.menu) - 1)) for variable in space.variables)
