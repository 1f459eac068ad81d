"""Ties between layers that are alike: the layers of a stage, or the same part of every block.

A network of many layers has few kinds of them. Tied layers share one rate, so that the search has few choices; where
the measurements support it, single layers are let go again (`tuning.refine`). Ties of a file stay.
"""

from collections.abc import Collection, Iterable, Sequence

from flexor_search.errors import UsageError
from flexor_search.planning.model_shape import LayerShape
from flexor_search.planning.space import SearchSpace, Variable


def found_ties(layers: Iterable[LayerShape]) -> list[tuple[str, ...]]:
    """Groups of layers of one kind and weight shape whose names begin with the same path, up to its first number.

    Args:
        layers: of a model, in its order.

    Returns:
        Every layer in one group, groups and their layers in the order of the model: `layer2.0.conv2` and
        `layer2.1.conv1` of a ResNet are one (32, 32, 3, 3) of `layer2`, `layer2.0.conv1` with its fewer inputs is
        another.

    Example:
        >>> shapes = [("a.0.conv", (8, 8)), ("a.1.conv", (8, 8)), ("b.0.conv", (8, 8)), ("a.2.conv", (8, 4))]
        >>> found_ties([LayerShape(name, "Linear", shape, 8, False) for name, shape in shapes])
        [('a.0.conv', 'a.1.conv'), ('b.0.conv',), ('a.2.conv',)]
    """
    groups: dict[tuple, list[str]] = {}
    for layer in layers:
        key = (stage_of(layer.name), layer.kind, layer.weight_shape, layer.transposed_groups)
        groups.setdefault(key, []).append(layer.name)
    return [tuple(names) for names in groups.values()]


def stage_of(name: str) -> str:
    """What stands before the first number of a name; of a name without one, the name of its parent."""
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: numbered if numbered is not None else -1])


def has_number(name: str) -> bool:
    """Whether a part of a name is a number; what stands before it is a stage then, and not just a parent."""
    return any(part.isdigit() for part in name.split("."))


def tied(space: SearchSpace, groups: Sequence[Sequence[str]]) -> SearchSpace:
    """A space in which each group of layers is one choice.

    Args:
        space: gives the layers their menus.
        groups: names of layers, each layer in one group.

    Raises:
        UsageError: the layers of a group have different menus, or the groups do not hold every layer once.
    """
    menus = {name: variable.menu for variable in space.variables for name in variable.layers}
    if sorted(name for names in groups for name in names) != sorted(menus):
        raise UsageError(f"ties: every searched layer must be in one group, got {list(map(list, groups))}")
    for names in groups:
        if any(menus[name] != menus[names[0]] for name in names):
            raise UsageError(f"ties: layers {', '.join(names)} have different menus; give them the same rates")
    return _with(space, tuple(Variable(tuple(names), menus[names[0]]) for names in groups))


def opened(space: SearchSpace) -> SearchSpace:
    """The same space without the ties that were found; those of a file stay. Variables in the order of the model."""
    if not space.found_ties:
        return space
    order = [layer.name for layer in space.model.layers]
    groups = _groups(space, {name for names in space.found_ties for name in names})
    return tied(space, sorted(groups, key=lambda names: order.index(names[0])))


def refined(space: SearchSpace, own: Collection[str]) -> SearchSpace:
    """The same space with some layers let go of the ties that were found, each a choice of its own.

    Args:
        space: whose `found_ties` hold these layers.
        own: their names.
    """
    return tied(space, _groups(space, own))


def _groups(space: SearchSpace, own: Collection[str]) -> list[tuple[str, ...]]:
    groups: list[tuple[str, ...]] = []
    for variable in space.variables:
        alone = [name for name in variable.layers if name in own] if variable.layers in space.found_ties else []
        together = tuple(name for name in variable.layers if name not in alone)
        groups += [*([together] if together else []), *((name,) for name in alone)]
    return groups


def _with(space: SearchSpace, variables: tuple[Variable, ...]) -> SearchSpace:
    return SearchSpace(space.model, variables, space.kept_dtype, space.model_name, space.kept_reasons)
