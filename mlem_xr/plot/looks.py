"""How a feature looks: its color, marker and dash in every figure, and the name it is shown under.

A look follows from the place of the feature in the order of the data (the attribute `features`),
not from its rank in a figure: two figures never contradict each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import holoviews as hv
import xarray as xr
from holoviews.plotting.util import process_cmap
from matplotlib.colors import is_color_like, to_hex

from mlem_xr.schema import (
    FINAL,
    FINAL_STEP,
    InputError,
    check_text,
    is_storable,
    plain_value,
    several,
    shown,
    values_of,
)

COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#332288", "#DDCC77"),
)
"""Okabe and Ito's colors but the yellow, too pale for lines, and three of Tol's.

All readers can tell any two of them apart, color-blind ones too.
"""

UNDEFINED_COLOR = "#b0b0b0"
"""Of what has no value."""

MARKERS = {
    "bokeh": ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star"),
    "matplotlib": ("o", "s", "^", "D", "v", "P", "X", "*"),
}
DASHES = {
    "bokeh": ("solid", "dashed", "dotdash", "dotted"),
    "matplotlib": ("-", "--", "-.", ":"),
}

Palette = str | Sequence[str] | Mapping[str, str] | None
"""Name of a color map, colors in the order of the features, or colors of some features by name."""

Rename = Mapping[Any, str] | None
"""What to write in place of names."""


@dataclass(frozen=True)
class Looks:
    """The looks of everything that has a place in an order: features, layers, levels."""

    order: tuple[Any, ...]
    colors: tuple[str, ...] = COLORS
    own: Mapping[Any, str] = field(default_factory=dict)
    """Colors by name, which go before those by place."""
    names: Mapping[Any, str] = field(default_factory=dict)
    """What is written in place of a name."""

    def name(self, value: Any, dim: str = "") -> str:
        """Return what is written for a value: its new name, or its readable form."""
        value = plain_value(value)
        if value in self.names:
            return self.names[value]
        if dim == "step":
            return FINAL if value == FINAL_STEP else f"{value:,}"
        return str(value)

    def color(self, value: Any) -> str:
        """Return the color of a value."""
        return self.own.get(value, self.colors[self.order.index(value) % len(self.colors)])

    def marker(self, value: Any, backend: str) -> str:
        """Return the marker of a value: another one in each round of the colors."""
        place = self.order.index(value)
        return _nth(MARKERS[backend], place + place // len(self.colors))

    def dash(self, value: Any, backend: str) -> str:
        """Return the dash of a value: lines of one color have different ones."""
        return _nth(DASHES[backend], self.order.index(value) // len(self.colors))

    def cycle(self, what: str, values: Iterable[Any], backend: str = "") -> hv.Cycle:
        """Return the colors, markers or dashes of the values, for overlays in their order."""
        looks = [getattr(self, what)(value, *filter(None, [backend])) for value in values]
        return hv.Cycle(looks)


def looks_of_features(
    result: xr.Dataset | xr.DataArray, palette: Palette = None, rename: Rename = None
) -> Looks:
    """Return the looks of the features of a result, in the order of the data it was made from."""
    given = several("features", result.attrs.get("features", ()), check_text, empty=True)
    order: dict[Any, None] = dict.fromkeys(given)
    if "feature" in result.coords:
        # A result without the attribute, or with features that it does not list.
        order |= dict.fromkeys(result["feature"].values.reshape(-1).tolist())
    elif "feature" in result.dims:
        order |= dict.fromkeys(range(result.sizes["feature"]))
    else:
        order |= {"feature": None}
    return looks(order, palette, rename)


def looks(order: Iterable[Any], palette: Palette = None, rename: Rename = None) -> Looks:
    """Return the looks of values in an order."""
    order = tuple(order)
    names = _names(rename)
    written = [names.get(value, str(value)) for value in order]
    if len(set(written)) < len(written):
        raise InputError(f"rename: some of {written} would have the same name")
    if palette is None:
        return Looks(order, names=names)
    if isinstance(palette, Mapping):
        own = {key: _color(color) for key, color in palette.items()}
        shown = {names.get(value, value): value for value in order}
        # A color may be given under the name that the figure shows.
        return Looks(
            order, own={shown.get(key, key): color for key, color in own.items()}, names=names
        )
    return Looks(order, tuple(map(_color, _sequence(palette, len(order)))), names=names)


def _sequence(palette: Any, n: int) -> list[Any]:
    if isinstance(palette, str):
        try:
            return list(process_cmap(palette, max(n, 1)))
        except ValueError:
            raise InputError(
                f"palette: found {shown(palette)}; expected a list of colors, a dictionary from "
                "features to colors, or the name of a color map"
            ) from None
    colors = values_of("palette", palette)
    if not colors:
        raise InputError(
            "palette: an empty list; expected colors, or a dictionary from features to colors"
        )
    return colors


def _color(color: Any) -> str:
    if not isinstance(color, str | tuple) or not is_color_like(color):
        raise InputError(f"palette: {shown(color)} is not a color; expected one such as '#0072B2'")
    return to_hex(color)


def _names(rename: Any) -> dict[Any, str]:
    if rename is None:
        return {}
    words = isinstance(rename, Mapping) and all(isinstance(v, str) for v in rename.values())
    if not words or not all(map(is_storable, rename.values())):
        raise InputError(
            f"rename: found {shown(rename)}; expected a dictionary from names to new names"
        )
    if len(set(rename.values())) < len(rename):
        raise InputError(f"rename: some new names are the same: {sorted(rename.values())}")
    return dict(rename)


def _nth(values: Sequence[str], place: int) -> str:
    return values[place % len(values)]
