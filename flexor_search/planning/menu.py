"""A layer's menu, as a space file writes it: rates, code families and numbers of planes, as products of lists."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from flexor_search.codes import XorCode
from flexor_search.errors import UsageError
from flexor_search.planning.allocation import weight_bits
from flexor_search.planning.layer_spec import KEPT, LayerSpec
from flexor_search.planning.model_shape import LayerShape
from flexor_search.planning.space import spec_rate

DEFAULT_RATES = tuple(f"{n_in}/20" for n_in in range(1, 21))


class Table(BaseModel):
    """A table of a TOML file: unknown keys and values of other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MoreTable(Table):
    """Entries that a menu has besides: the product of the lists. What is not given is as in the menu itself."""

    rates: list[str]
    families: list[str] | None = None
    planes: list[int] | None = None
    n_tap: int | None = None
    code_seed: int | None = None


class MenuTable(Table):
    """What the layers under a pattern may take: the product of all the lists, and `more`.

    Attributes:
        rates: "12/20" is 12 stored bits per 20 weights; "1-20/20" is every n_in from 1 to 20; "kept" stores the weights
            as they are. One rate fixes the layer.
        families: of codes.
        planes: binary codes per weight.
        n_tap: ones per XOR row.
        code_seed: seed of the codes.
        matrix: rows of a code given by the user, as lists of 0 and 1; takes the place of rates and families.
        more: entries besides, for what is no product: another family at very low rates, two planes above 1 bit.
    """

    rates: list[str] | None = None
    families: list[str] | None = None
    planes: list[int] | None = None
    n_tap: int | None = None
    code_seed: int | None = None
    matrix: list[list[int]] | None = None
    more: list[MoreTable] | None = None


def menu_of(default: MenuTable, own: MenuTable | None) -> tuple[LayerSpec, ...]:
    """The menu that a layer's own table and the default make, by ascending rate.

    Raises:
        UsageError: a rate that cannot be read, a code that cannot be, or nothing at all.
    """

    def value(key: str, fallback):
        for table in (own, default):
            if table is not None and getattr(table, key) is not None:
                return getattr(table, key)
        return fallback

    planes, n_tap, code_seed = value("planes", [1]), value("n_tap", 2), value("code_seed", 0)
    given = own if own is not None and (own.matrix is not None or own.rates is not None) else default
    if given.matrix is not None:
        try:
            code = XorCode.from_matrix(given.matrix)  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(f"space: {error}") from error
        menu = [LayerSpec.from_code(code, count) for count in planes]
    else:
        menu = _product(
            value("rates", DEFAULT_RATES), value("families", ["systematic"]), planes, n_tap=n_tap, code_seed=code_seed
        )
    own_more = own.more if own is not None else None  # without rates of its own a layer has the default's, and its more
    for more in (own_more if own_more is not None else given.more) or []:
        menu += _product(
            more.rates,
            more.families or value("families", ["systematic"]),
            more.planes or planes,
            n_tap=n_tap if more.n_tap is None else more.n_tap,
            code_seed=code_seed if more.code_seed is None else more.code_seed,
        )
    if not menu:
        raise UsageError("space: a menu is empty; give at least one rate, family and number of planes")
    return tuple(sorted(dict.fromkeys(menu), key=lambda spec: (spec_rate(spec), spec.nominal_rate)))


def _product(
    rates: Sequence[str], families: Sequence[str], planes: Sequence[int], *, n_tap: int, code_seed: int
) -> list[LayerSpec]:
    return [
        KEPT if rate == "kept" else LayerSpec(family, *rate, n_planes=count, n_tap=n_tap, code_seed=code_seed)
        for text in rates
        for rate in _rates(text)
        for family in families
        for count in planes
    ]


def _rates(text: str) -> list:
    """ "12/20" -> [(12, 20)]; "1-20/20" -> all of them; "kept" -> ["kept"]."""
    if text == "kept":
        return ["kept"]
    try:
        n_in, n_out = text.split("/")
        first, _, last = n_in.partition("-")
        counts = range(int(first), int(last or first) + 1)
        if not counts:
            raise ValueError("an empty range")
        return [(count, int(n_out)) for count in counts]
    except ValueError as error:
        raise UsageError(f"space: rate {text!r} must look like '12/20', '1-20/20' or 'kept'") from error


def by_size(menu: tuple[LayerSpec, ...], layers: list[LayerShape], kept_dtype: str) -> tuple[LayerSpec, ...]:
    """The menu by what it costs these very layers, padding and all; at equal cost the higher nominal rate is later."""
    return tuple(
        sorted(
            menu, key=lambda spec: (sum(weight_bits(layer, spec, kept_dtype) for layer in layers), spec.nominal_rate)
        )
    )
