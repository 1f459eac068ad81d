"""Search spaces from the model alone, or from a TOML file of layer patterns.

A file is data only: a comment in it says why. Keys and values are checked; unknown keys are refused with the nearest
known name.
"""

import fnmatch
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from flexor_search.errors import ModelError, UsageError, nearest
from flexor_search.planning.layer_spec import KEPT, LayerSpec
from flexor_search.planning.menu import MenuTable, MoreTable, Table, by_size, menu_of
from flexor_search.planning.model_shape import LayerShape, ModelShape
from flexor_search.planning.space import SearchSpace, Variable
from flexor_search.planning.ties import found_ties

KEEP_LIMIT = 0.25
MANY_LAYERS = 16
"""Above so many searched layers a space without a file ties those that are alike."""


class LayerTable(MenuTable):
    """A menu for the layers whose names match a pattern; of several that match, the last one counts."""

    match: str


class TieTable(Table):
    """Layers whose names match the pattern always take the same rate."""

    match: str


class SpaceFile(Table):
    """A search space as written in TOML.

    Attributes:
        kept_dtype: dtype of scales and kept tensors.
        keep: patterns of layers kept in full precision; absent: the first layer and the last Linear, unless one holds
            more than a quarter of the weights or has a [[layer]] menu of its own; empty: none.
        default: the menu of every layer.
        layer: menus of layers by pattern.
        tie: ties between layers.
        ties: "found" ties what `found_ties` finds in the model, beside `tie`; "none" ties nothing more. Absent: found
            where a space without a file has more than `MANY_LAYERS` layers.
    """

    kept_dtype: Literal["float16", "float32"] = "float16"
    keep: list[str] | None = None
    default: MenuTable = Field(default_factory=MenuTable)
    layer: list[LayerTable] = Field(default_factory=list)
    tie: list[TieTable] = Field(default_factory=list)
    ties: Literal["found", "none"] | None = None


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the project, by name."""
    here = Path(__file__).resolve().parents[1] / "search_spaces"  # in an installed package
    folder = here if here.is_dir() else here.parents[1] / "search_spaces"  # in a checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_space_file(name_or_path: str | Path) -> SpaceFile:
    """Read a space by the name of a shipped one or the path of a TOML file.

    Raises:
        UsageError: no such file, not TOML, an unknown key (the nearest is named), or a value of the wrong type.
    """
    shipped = shipped_spaces()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise UsageError(
            f"space: no file {str(name_or_path)!r} and no shipped space of that name; "
            f"{nearest(str(name_or_path), shipped)}"
        )
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"space: {path} is not readable TOML: {error}") from error
    try:
        return SpaceFile.model_validate(body)
    except ValidationError as error:
        raise UsageError(
            f"space: {path}: {explain_validation(error, SpaceFile, LayerTable, MoreTable, TieTable)}"
        ) from error


def explain_validation(error: ValidationError, *tables: type[BaseModel]) -> str:
    """The first problem of a validation in one line; for an unknown key the nearest known one."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {name for table in tables for name in table.model_fields}
        return f"unknown key {where!r}; {nearest(str(first['loc'][-1]), known)}"
    return f"{where}: {first['msg'].lower()}, got {first['input']!r}"


def make_space(model: ModelShape, space: SpaceFile | None = None, model_name: str = "") -> SearchSpace:
    """The search space of a model.

    Args:
        model: shapes of the model.
        space: what the file says; None: the default menu for every layer and the default rule of what is kept.
        model_name: the built-in workload whose model this is, "" for a user's own.

    Raises:
        ModelError: the model has no quantizable layer.
        UsageError: a pattern that matches no layer, or a rate that cannot be read.
    """
    if not model.layers:
        raise ModelError(
            "model: it has no quantizable layer (Conv1d/2d/3d, ConvTranspose1d/2d/3d or Linear); "
            "FleXOR needs at least one"
        )
    finds_ties = space.ties == "found" if space is not None else None
    space = space or SpaceFile()
    reasons = _kept_layers(model, space) | {layer.name: "no weights" for layer in model.layers if not layer.n_weights}
    menus: dict[str, tuple[LayerSpec, ...]] = {}
    for layer in model.layers:
        if layer.name not in reasons:
            matching = [table for table in space.layer if fnmatch.fnmatchcase(layer.name, table.match)]
            menu = menu_of(space.default, matching[-1] if matching else None)
            if menu == (KEPT,):
                reasons[layer.name] = "kept by the space"
            else:
                menus[layer.name] = menu
    for table in space.layer:
        _matching(model, table.match)
    groups = given = _tied_groups(model, space.tie, menus)
    if finds_ties if finds_ties is not None else len(menus) > MANY_LAYERS:
        groups = _with_found_ties(model, groups, menus)
    found = tuple(names for names in groups if names not in given)
    variables = tuple(
        Variable(names, by_size(menus[names[0]], [model.by_name[name] for name in names], space.kept_dtype))
        for names in groups
    )
    return SearchSpace(model, variables, space.kept_dtype, model_name, tuple(reasons.items()), found)


def _kept_layers(model: ModelShape, space: SpaceFile) -> dict[str, str]:
    """Layers that are not searched, and why. A menu of its own takes a layer out of the default rule."""
    if space.keep is not None:
        return {layer.name: f"keep = {pattern!r}" for pattern in space.keep for layer in _matching(model, pattern)}
    linears = [layer for layer in model.layers if layer.kind == "Linear"]
    candidates = {model.layers[0].name: "first layer"} | ({linears[-1].name: "last Linear"} if linears else {})
    small = {
        name: reason
        for name, reason in candidates.items()
        if model.by_name[name].n_weights <= KEEP_LIMIT * model.n_weights
        and not any(fnmatch.fnmatchcase(name, table.match) for table in space.layer)
    }
    return small if len(small) < len(model.layers) else {}


def _matching(model: ModelShape, pattern: str) -> list[LayerShape]:
    found = [layer for layer in model.layers if fnmatch.fnmatchcase(layer.name, pattern)]
    if not found:
        raise UsageError(f"space: pattern {pattern!r} matches no layer; {nearest(pattern, model.by_name)}")
    return found


def _with_found_ties(
    model: ModelShape, groups: list[tuple[str, ...]], menus: dict[str, tuple[LayerSpec, ...]]
) -> list[tuple[str, ...]]:
    """Groups with the layers that no file tied tied as they are found, where their menus are the same."""
    free = {names[0] for names in groups if len(names) == 1}
    layers = [layer for layer in model.layers if layer.name in free]
    found: dict[str, tuple[str, ...]] = {}
    for names in found_ties(layers):
        for menu in dict.fromkeys(menus[name] for name in names):
            same = tuple(name for name in names if menus[name] == menu)
            found |= dict.fromkeys(same, same)
    return list(dict.fromkeys(found.get(names[0], names) for names in groups))


def _tied_groups(
    model: ModelShape, ties: list[TieTable], menus: dict[str, tuple[LayerSpec, ...]]
) -> list[tuple[str, ...]]:
    group_of: dict[str, str] = {name: name for name in menus}
    tied: set[str] = set()
    for tie in ties:
        names = [layer.name for layer in _matching(model, tie.match) if layer.name in menus]
        if not names:
            raise UsageError(f"space: every layer tied by {tie.match!r} is kept; give them rates or drop the tie")
        if any(menus[name] != menus[names[0]] for name in names):
            raise UsageError(f"space: layers tied by {tie.match!r} have different menus; give them the same rates")
        if not tied.isdisjoint(names):
            raise UsageError(f"space: a layer is tied twice, the second time by {tie.match!r}; tie each layer once")
        tied |= set(names)
        group_of |= dict.fromkeys(names, names[0])
    groups: dict[str, list[str]] = {}
    for name in menus:
        groups.setdefault(group_of[name], []).append(name)
    return [tuple(names) for names in groups.values()]
