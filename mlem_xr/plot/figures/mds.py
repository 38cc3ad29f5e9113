"""Sentences as points of the plane."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import to_hex, to_rgb

from mlem_xr.plot.frames import figure_of, filled, fixed, variable
from mlem_xr.plot.looks import (
    COLORS,
    MARKERS,
    UNDEFINED_COLOR,
    Looks,
    Palette,
    Rename,
    looks,
)
from mlem_xr.plot.style import BACKENDS, overlay_of, styled
from mlem_xr.schema import InputError, among, choose, listed, several

UNDEFINED = "undefined"

_NEUTRAL = "#555555"
"""Color of what the legend says of markers and lightness alone."""

_PALEST = 0.65
"""How much white the palest level has."""

_MOST_SHADES = 4


@dataclass(frozen=True)
class _Key:
    """How the sentences with certain levels look."""

    color: str
    marker: int


def mds(
    result: xr.Dataset | xr.DataArray,
    *,
    color: str | None = None,
    hierarchy: Iterable[str] | None = None,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Points | hv.NdOverlay | hv.Overlay | hv.HoloMap:
    """Draw sentences as points in the plane of their multidimensional scaling.

    Equal lengths on both axes are equal distances; the axes themselves mean nothing. Hovering shows
    the sentence. Coordinates other than sentence and axis that have more than one value become
    sliders or selectors; a frame that holds only NaN stays and says why.

    Parameters
    ----------
    result : xr.Dataset or xr.DataArray
        What `mlem_xr.mds` returns, or any part of it: `position` (..., sentence, axis) floating;
        its first two axes are drawn. The coordinate `text`, if there, shows when hovering.
    color : str, optional
        A coordinate over `sentence`. Up to ten different values, or values that are not numbers,
        have a color and marker each; more numbers have a color scale. Undefined ones are gray.
    hierarchy : iterable of str, optional
        One to three coordinates over `sentence`, instead of `color`: the first one gives the
        marker, the second one the hue, the third one the lightness; a single one marker and hue.
        One legend says all of it.
    palette : str, list or dict, optional
        Colors of the values of `color`, or of the second feature of the hierarchy.
    rename : dict, optional
        What to write in place of the names of features, values and other labels.

    Returns
    -------
    hv.Points, hv.NdOverlay, hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. `Points` (`axis 1`, `axis 2`; the coordinates that
        are shown, and `text`), overlaid by value where they have a legend; with several features
        an `Overlay` of these by combination (`Sentences`) and of the legend (`Legend`).

    Raises
    ------
    InputError
        If positions are missing, all NaN or not (sentence, axis) with two axes or more, if `color`
        or the hierarchy are no coordinates over `sentence`, have too many values, or both are
        given.

    Examples
    --------
    >>> position = xr.DataArray(
    ...     [[0.0, 1.0], [2.0, 3.0]],
    ...     dims=("sentence", "axis"),
    ...     coords={"tense": ("sentence", ["past", "present"])},
    ... )
    >>> list(mds(position, color="tense").keys())
    ['past', 'present']
    """
    values = _positions(result)
    known = [str(n) for n, c in values.coords.items() if c.dims == ("sentence",)]
    wanted = _features(color, hierarchy, known)
    look = looks(known, palette, rename)
    title = fixed(values, ("sentence", "axis"), look)
    names = [n for n in dict.fromkeys([*wanted, "text"]) if n in known]
    table = values.to_dataset()
    drawn = ("sentence", "axis")
    columns = {name: pd.Series(values[name].values) for name in wanted}
    hover = [("sentence", "@text")] * ("text" in known)
    hover += [(look.name(name), f"@{{{name}}}") for name in wanted]
    if len(wanted) == 1 and _is_scale(columns[wanted[0]]):

        def points(frame: xr.Dataset) -> hv.Points:
            return _points(_table(frame["position"], names), label=title)

        return _styled_points(
            figure_of(table, "position", drawn, points, look), hover, look, wanted[0]
        )
    if not wanted:

        def plain(frame: xr.Dataset) -> hv.Points:
            return _points(_table(frame["position"], names), label=title)

        return _styled_points(figure_of(table, "position", drawn, plain, look), hover, look, None)
    levels = {name: _levels(name, column) for name, column in columns.items()}
    keys, legend = _looks_of(levels, palette, look)
    level = pd.DataFrame({name: column.map(_level) for name, column in columns.items()})
    present = set(map(tuple, level.values))
    keys = {combination: key for combination, key in keys.items() if combination in present}

    def draw(frame: xr.Dataset) -> Any:
        points = _table(frame["position"], names)
        combination = [tuple(row) for row in points[wanted].map(_level).values]
        drawings = {
            ", ".join(look.name(v) for v in key): _points(
                points[[found == key for found in combination]], group="Sentences"
            )
            for key in keys
        }
        by = look.name(wanted[0]) if len(wanted) == 1 else "sentences"
        sentences = overlay_of(drawings, by).relabel(title)
        if len(wanted) == 1:
            return sentences
        axes = ["axis 1", "axis 2"]
        entries = {name: hv.Points([(np.nan, np.nan)], axes, group="Legend") for name in legend}
        return hv.Overlay([sentences, overlay_of(entries, by)]).relabel(title)

    figure = figure_of(table, "position", drawn, draw, look)
    return _styled_levels(figure, list(keys.values()), legend, wanted, hover, look)


def _features(color: str | None, hierarchy: Iterable[str] | None, known: list[str]) -> list[str]:
    if hierarchy is None:
        return [] if color is None else [choose("color", color, known)]
    if color is not None:
        raise InputError("color: found together with hierarchy; expected one of them")
    names = several("hierarchy", hierarchy, among(known), empty=True)
    if not 1 <= len(names) <= 3:
        raise InputError(f"hierarchy: found {listed(names)}; expected one to three features")
    return names


def _positions(result: xr.Dataset | xr.DataArray) -> xr.DataArray:
    if isinstance(result, xr.DataArray):
        values = filled(result.rename("position").compute(), argument="result")
    else:
        values = variable(result, "position")
    if not {"sentence", "axis"} <= set(values.dims) or values.sizes["axis"] < 2:
        raise InputError(
            "result: expected positions with dimensions 'sentence' and 'axis', at least two axes; "
            f"found {dict(values.sizes)}"
        )
    return values.isel(axis=slice(2))


def _is_scale(column: pd.Series) -> bool:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return bool(numeric and column.dropna().nunique() > len(COLORS))


def _levels(name: str, column: pd.Series) -> list[str]:
    """Return the levels of a feature, the undefined one last."""
    names = column.map(_level)
    defined = column[names != UNDEFINED].unique().tolist()
    ordered = [_level(v) for v in sorted(defined, key=lambda value: (str(type(value)), value))]
    return ordered + [UNDEFINED] * bool((names == UNDEFINED).any())


def _level(value: object) -> str:
    if value is None or value != value or value == "":
        return UNDEFINED
    return f"{value:g}" if isinstance(value, float) else str(value)


def _looks_of(
    levels: dict[str, list[str]], palette: Palette, look: Looks
) -> tuple[dict[tuple[str, ...], _Key], dict[str, _Key]]:
    """Return how each combination of levels looks, and what the legend says of each level."""
    names = list(levels)
    hue = names[min(1, len(names) - 1)]
    colors = looks([v for v in levels[hue] if v != UNDEFINED], palette)
    if len(names) > 1:
        # A single feature may have any number of levels: colors and markers go on together.
        _limit(names[0], levels[names[0]], len(MARKERS["bokeh"]))
        _limit(hue, levels[hue], len(COLORS) + (UNDEFINED in levels[hue]))
    if len(names) > 2:
        _limit(names[2], levels[names[2]], _MOST_SHADES)

    def color(level: str) -> str:
        return UNDEFINED_COLOR if level == UNDEFINED else colors.color(level)

    def shade(level: str) -> float:
        n = len(levels[names[2]])
        return _PALEST * levels[names[2]].index(level) / max(1, n - 1)

    if len(names) == 1:
        rounds = len(colors.colors)
        single: dict[tuple[str, ...], _Key] = {
            (v,): _Key(color(v), (i + i // rounds) % 8) for i, v in enumerate(levels[hue])
        }
        return single, {}
    keys: dict[tuple[str, ...], _Key] = {}
    for marker, first in enumerate(levels[names[0]]):
        for second in levels[names[1]]:
            if len(names) == 2:
                keys[first, second] = _Key(color(second), marker)
                continue
            for third in levels[names[2]]:
                keys[first, second, third] = _Key(_paler(color(second), shade(third)), marker)
    legend = {
        f"{look.name(names[0])}: {look.name(v)}": _Key(_NEUTRAL, i)
        for i, v in enumerate(levels[names[0]])
    }
    legend |= {f"{look.name(names[1])}: {look.name(v)}": _Key(color(v), 0) for v in levels[hue]}
    if len(names) > 2:
        legend |= {
            f"{look.name(names[2])}: {look.name(v)}": _Key(_paler(_NEUTRAL, shade(v)), 0)
            for v in levels[names[2]]
        }
    return keys, legend


def _limit(name: str, levels: list[str], most: int) -> None:
    if len(levels) > most:
        raise InputError(
            f"hierarchy: {name!r} has {len(levels)} values; expected at most {most} in its place"
        )


def _paler(color: str, share: float) -> str:
    return to_hex(cast(Any, [part + (1 - part) * share for part in to_rgb(color)]))


def _table(position: xr.DataArray, names: list[str]) -> pd.DataFrame:
    x, y = position.transpose("axis", "sentence").values
    columns = {name: position[name].values for name in names}
    table = pd.DataFrame({"axis 1": x, "axis 2": y, **columns})
    return table[np.isfinite(x) & np.isfinite(y)]


def _points(table: pd.DataFrame, **named: str) -> hv.Points:
    return hv.Points(table, ["axis 1", "axis 2"], list(table.columns[2:]), **named)


_SIZE: dict[str, dict[str, Any]] = {
    "bokeh": {"width": 640, "height": 520, "framewise": True},
    "matplotlib": {"fig_inches": (6.0, 5.0), "aspect": "equal", "framewise": True},
}
_DOTS: dict[str, dict[str, Any]] = {
    "bokeh": {"size": 6, "alpha": 0.8, "tools": ["hover"], "data_aspect": 1, "line_color": None},
    "matplotlib": {"s": 18, "alpha": 0.8, "linewidth": 0},
}


def _styled_points(figure: Any, hover: list, look: Looks, scale: str | None) -> Any:
    color = (
        {"color": scale, "cmap": "viridis", "colorbar": True}
        | {"clabel": look.name(scale), "clipping_colors": {"NaN": UNDEFINED_COLOR}}
        if scale
        else {"color": COLORS[0]}
    )
    options = {b: {"Points": {**_DOTS[b], **color, **_SIZE[b]}} for b in BACKENDS}
    if hover:
        options["bokeh"]["Points"]["hover_tooltips"] = hover
    return styled(figure, "Points", **options)


def _styled_levels(
    figure: Any,
    keys: list[_Key],
    legend: dict[str, _Key],
    wanted: list[str],
    hover: list,
    look: Looks,
) -> Any:
    outermost = "Overlay" if legend else "NdOverlay"
    options: dict[str, dict] = {}
    for backend in BACKENDS:
        marks = MARKERS[backend]
        options[backend] = {
            "Points": {**_DOTS[backend], **_SIZE[backend]},
            "Points.Sentences": {
                "color": hv.Cycle([key.color for key in keys]),
                "marker": hv.Cycle([marks[key.marker] for key in keys]),
                "show_legend": not legend,
            },
            "Points.Legend": {
                **({"tools": []} if backend == "bokeh" else {}),
                ("size" if backend == "bokeh" else "s"): 8 if backend == "bokeh" else 36,
                "color": hv.Cycle([key.color for key in legend.values()] or ["black"]),
                "marker": hv.Cycle([marks[key.marker] for key in legend.values()] or [marks[0]]),
            },
            outermost: _SIZE[backend],
        }
    options["bokeh"]["Points.Sentences"]["hover_tooltips"] = hover
    if not legend:
        options["bokeh"][outermost] = {
            **_SIZE["bokeh"],
            "legend_opts": {"title": look.name(wanted[0])},
        }
    return styled(figure, outermost, **options, legend_position="right")
