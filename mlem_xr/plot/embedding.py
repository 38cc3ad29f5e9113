"""Sentences as points of the plane."""

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.frames import figure_of, filled, fixed, variable
from mlem_xr.plot.style import COLORS, POINTS_BOKEH, POINTS_MATPLOTLIB, styled
from mlem_xr.schema import InputError, choose

_UNDEFINED = "undefined"


def mds(
    result: xr.Dataset | xr.DataArray, *, color: str | None = None
) -> hv.Points | hv.NdOverlay | hv.HoloMap:
    """Draw sentences as points in the plane of their multidimensional scaling.

    Equal lengths on both axes are equal distances. Coordinates other than sentence and axis that
    have more than one value become sliders or selectors; frames that hold only NaN are left out.

    Parameters
    ----------
    result : xr.Dataset or xr.DataArray
        What `mlem_xr.mds` returns, or any part of it: `position` (..., sentence, axis) floating;
        its first two axes are drawn. The coordinate `text`, if there, shows when hovering.
    color : str, optional
        A coordinate over `sentence`. Up to seven different values, or values that are not numbers,
        have a color and marker each; more numbers have a color scale.

    Returns
    -------
    hv.Points, hv.NdOverlay or hv.HoloMap
        For the bokeh and the matplotlib backend. `Points` (`axis 1`, `axis 2`; the color's
        coordinate and `text`), overlaid by value of the color where it has a legend.

    Raises
    ------
    InputError
        If positions are missing, all NaN or not (sentence, axis) with two axes or more, or if
        `color` is no coordinate over `sentence`.

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
    if color is not None:
        choose("color", color, known)
    names = [n for n in (color, "text") if n in known]
    title = fixed(values, ("sentence", "axis"))
    levels = [] if color is None else _levels(pd.Series(values[color].values))

    def draw(frame: xr.Dataset) -> hv.Points | hv.NdOverlay:
        table = _table(frame["position"], list(dict.fromkeys(names)))
        if not levels:
            return _points(table).relabel(title)
        level = table[color].map(_level)
        points = {v: _points(table[level == v]) for v in levels}
        return hv.NdOverlay(points, str(color), sort=False).relabel(title)

    figure = figure_of(values.to_dataset(name="position"), "position", ("sentence", "axis"), draw)
    return _styled(figure, None if levels else color, bool(levels))


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


def _levels(column: pd.Series) -> list[str]:
    """Return the values that get a color each, or none if a scale of colors suits better."""
    names = column.map(_level)
    defined = column[names != _UNDEFINED].unique().tolist()
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric and len(defined) > len(COLORS):
        return []
    ordered = sorted(defined, key=lambda value: (str(type(value)), value))
    return [_level(value) for value in ordered] + [_UNDEFINED] * bool((names == _UNDEFINED).any())


def _level(value: object) -> str:
    if value is None or value != value or value == "":
        return _UNDEFINED
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(position: xr.DataArray, names: list[str]) -> pd.DataFrame:
    x, y = position.transpose("axis", "sentence").values
    columns = {name: position[name].values for name in names}
    table = pd.DataFrame({"axis 1": x, "axis 2": y, **columns})
    return table[np.isfinite(x) & np.isfinite(y)]


def _points(table: pd.DataFrame) -> hv.Points:
    return hv.Points(table, ["axis 1", "axis 2"], list(table.columns[2:]))


def _styled(figure: hv.Points, scale: str | None, legend: bool) -> hv.Points:
    color = {"color": scale, "cmap": "viridis", "colorbar": True} if scale else {}
    bokeh = {"width": 640, "height": 560, "framewise": True}
    matplotlib = {"fig_inches": (6.4, 5.4), "aspect": "equal", "framewise": True}
    return styled(
        figure,
        "NdOverlay" if legend else "Points",
        bokeh={"Points": {**POINTS_BOKEH, **color, **bokeh}, "NdOverlay": bokeh},
        matplotlib={
            "Points": {**POINTS_MATPLOTLIB, **color, **matplotlib},
            "NdOverlay": matplotlib,
        },
        both={"NdOverlay": {"legend_position": "right"}},
    )
