"""Lines with intervals: importance against layer, and against the number of top units."""

from collections.abc import Callable, Iterable
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.frames import (
    CONFIDENCE,
    chosen,
    expanded,
    figure_of,
    fixed,
    over_seeds,
    refuse,
    variable,
)
from mlem_xr.plot.style import LINES_BOKEH, LINES_MATPLOTLIB, styled
from mlem_xr.schema import InputError, choose

LABELS = {
    "importance": "importance (increase of squared error)",
    "r2": "R² on held-out pairs",
    "r": "Pearson correlation on held-out pairs",
    "mse": "mean squared error on held-out pairs",
    "mae": "mean absolute error on held-out pairs",
}
"""Axis labels of what can be drawn."""

_DECADES = 6
"""Most decades that a logarithmic axis shows: below lies what rounding leaves of a zero."""

_MOST_TICKS = 14


def feature_importance(
    result: xr.Dataset,
    *,
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = True,
) -> hv.Overlay | hv.HoloMap:
    """Draw importance against layer, one line per feature.

    Where there are several seeds, the line is their mean and the band its 99 % interval (Student t
    over the seeds that hold a value). If there is only one layer, the features stand side by side
    around it and have error bars. Coordinates other than seed, layer and feature that have more
    than one value become sliders or selectors; the others are named in the title. Values that are
    NaN are left out, and so are layers and frames that hold nothing else.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.multivariate_importance` returns, or any part of it: `importance`
        (..., layer, feature) floating, in units of squared error. Lazy values are computed once.
    top : int
        How many features to draw: those with the largest importance in any layer of any frame.
    features : iterable of str, optional
        The features to draw, in this order, instead of the `top` ones.
    log : bool
        Whether the importance axis is logarithmic. Means that are zero or negative have no place
        on it and leave a gap, frames without a positive mean are left out, bands are cut at its
        lower end, and it shows six decades at most.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. Each frame holds, by feature, `Points`: `Scatter`
        (layer: the place on its axis; `importance`, `lower`, `upper`) with the numbers themselves;
        `Lines`: `Curve`; and, with several seeds, `Bands`: `Spread`, or `ErrorBars` if there is
        only one layer.

    Raises
    ------
    InputError
        If there is no `importance`, it holds only NaN or has a dimension `unit` or `k`, or if a
        feature or `top` is not possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"importance": (("layer", "feature"), [[0.02, 1e-4], [0.01, 0.0]])},
    ...     coords={"layer": [1, 2], "feature": ["tense", "number"]},
    ... )
    >>> feature_importance(result, top=1).Points.I["tense"].dframe().importance.tolist()
    [0.02, 0.01]
    """
    values = variable(result, "importance")
    refuse(values, ["unit"], "draw it with unit_distribution or select one unit")
    refuse(values, ["k"], "draw it with top_k or select one k")
    return _profile(values, x="layer", by="feature", top=top, names=features, log=log)


def top_k(
    result: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = False,
) -> hv.Overlay | hv.HoloMap:
    """Draw importance or a score of the k best units against k, on a logarithmic k axis.

    Importance has one line per feature and the layer among the sliders; a score has one line per
    layer. Seeds, a single k, sliders, title and NaN are as in `feature_importance`.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.top_unit_importance` returns, or any part of it: `importance`
        (..., layer, k, feature) or a score (..., layer, k), floating; k integer and positive.
    show : {"importance", "r2", "r", "mse", "mae"}
        The variable to draw.
    top : int
        How many features to draw: those with the largest importance at any k.
    features : iterable of str, optional
        The features to draw, in this order, instead of the `top` ones.
    log : bool
        Whether the vertical axis is logarithmic too.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend; elements as in `feature_importance`, with `k` in
        place of the layer and the variable's name in place of `importance`.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `k` or only NaN, or if a feature or `top` is
        not possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"r2": (("layer", "k"), [[0.1, 0.3], [0.2, 0.4]])},
    ...     coords={"layer": [1, 2], "k": [1, 8]},
    ... )
    >>> top_k(result, show="r2").Points.I[2].dframe().r2.tolist()
    [0.2, 0.4]
    """
    values = variable(result, choose("show", show, LABELS))
    refuse(values, ["unit"], "expected the result of top_unit_importance")
    if "k" not in values.coords:
        found = tuple(values.coords)
        raise InputError(f"result: {show!r} has no coordinate 'k'; found: {found}")
    if show == "importance":
        return _profile(values, x="k", by="feature", top=top, names=features, log=log, logx=True)
    layers = expanded(values, "layer").layer.values.tolist()
    return _profile(values, x="k", by="layer", top=len(layers), names=layers, log=log, logx=True)


def _profile(
    values: xr.DataArray,
    *,
    x: str,
    by: str,
    top: int,
    names: Iterable[Any] | None,
    log: bool,
    logx: bool = False,
) -> Any:
    name = str(values.name)
    values = expanded(values, x, by)
    table = over_seeds(values)
    table = table.sel({by: chosen(table["mean"], by, top, names)})
    log = log and bool((table["mean"] > 0).any())
    if log:
        # A frame without a positive mean has nothing to show on a logarithmic axis.
        table = table.where((table["mean"] > 0).any((x, by)))
    table, margins, ticks = _placed(table, x, by, logx)
    limits = _value_limits(table, log)
    floor = limits[0] if log else -np.inf
    title = _title(values, x, by)
    interval = _interval(table["half"], x)

    def draw(frame: xr.Dataset) -> hv.Overlay:
        return _lines(frame, name, x, by, floor, interval).relabel(title)

    figure = figure_of(table, "mean", (x, by), draw)
    axes = {"logy": log, "logx": logx, "xlim": margins, "ylim": limits}
    # Else HoloViews would look for limits in every line of every frame, and again for each frame.
    axes |= {"normalize": False, "apply_ranges": False}
    where = x if len(ticks) > 1 else (x, ticks[0][1])
    hover = [by, where, (LABELS[name], f"@{{{name}}}"), "lower", "upper"]
    return styled(
        figure,
        "Overlay",
        bokeh={
            **LINES_BOKEH,
            "Scatter": {**LINES_BOKEH["Scatter"], "hover_tooltips": hover},
            "Overlay": {"legend_opts": {"title": by}},
        },
        matplotlib=LINES_MATPLOTLIB,
        both=dict.fromkeys((*LINES_BOKEH, "NdOverlay", "Overlay"), axes),
        xticks=ticks,
        xlabel=x,
        ylabel=LABELS[name],
        legend_position="right",
    )


def _placed(
    table: xr.Dataset, x: str, by: str, log: bool
) -> tuple[xr.Dataset, tuple[float, float], list[tuple[int, str]]]:
    """Return the table with the `position` of its values, and the ends and ticks of that axis."""
    table = table.dropna(x, how="all", subset=["mean"])
    positions, ticks = _positions(table[x].values)
    margins = _margins(positions, log)
    table = table.assign_coords(position=(x, positions))
    if len(ticks) == 1:
        # Side by side, no line hides another's interval.
        places = (np.arange(table.sizes[by]) + 0.5) / table.sizes[by] - 0.5
        shift = xr.DataArray(0.6 * (margins[1] - margins[0]) * places, dims=by)
        table = table.assign_coords(position=table["position"] + shift)
    return table, margins, ticks


def _interval(half: xr.DataArray, x: str) -> type[hv.ErrorBars] | None:
    """Return the element that shows the intervals, the same in every frame; None without any."""
    if not half.notnull().any():
        return None
    # A band over a single position would have no width.
    return hv.Spread if half.sizes[x] > 1 else hv.ErrorBars


def _title(values: xr.DataArray, x: str, by: str) -> str:
    seeds = values.sizes.get("seed", 1)
    averaged = f"{seeds} seeds (mean, {100 * CONFIDENCE:g} % interval)" if seeds > 1 else ""
    return ", ".join(filter(None, (fixed(values, (x, by)), averaged)))


def _lines(
    frame: xr.Dataset,
    name: str,
    x: str,
    by: str,
    floor: float,
    interval: type[hv.ErrorBars] | None,
) -> hv.Overlay:
    across, up = hv.Dimension(x), hv.Dimension((name, LABELS[name]))
    tables = {label: _table(frame.sel({by: label}), name, x) for label in frame[by].values.tolist()}

    def overlay(group: str, draw: Callable[[pd.DataFrame], hv.Element]) -> hv.NdOverlay:
        drawings = {label: draw(table) for label, table in tables.items()}
        return hv.NdOverlay(drawings, by, sort=False, group=group)

    points = overlay("Points", lambda t: hv.Scatter(t, across, [up, "lower", "upper"]))
    lines = overlay("Lines", lambda t: hv.Curve(_visible(t, name, floor), across, up))
    if interval is None:
        return lines * points
    bands = overlay(
        "Bands", lambda t: interval(_band(t, name, floor), across, [up, "below", "above"])
    )
    return bands * lines * points


def _table(line: xr.Dataset, name: str, x: str) -> pd.DataFrame:
    mean, half = line["mean"].values, line["half"].values
    table = pd.DataFrame(
        {x: line["position"].values, name: mean, "lower": mean - half, "upper": mean + half}
    )
    return table[np.isfinite(mean)]


def _visible(table: pd.DataFrame, name: str, floor: float) -> pd.DataFrame:
    return table.assign(**{name: table[name].where(table[name] > floor)})


def _band(table: pd.DataFrame, name: str, floor: float) -> pd.DataFrame:
    if table["lower"].isna().all():
        # HoloViews takes the minimum of a band that is not empty, and warns of one that is NaN.
        table = table.iloc[:0]
    middle, lower, upper = (table[c].clip(lower=floor) for c in (name, "lower", "upper"))
    return table.assign(**{name: middle, "below": middle - lower, "above": upper - middle})


def log_limits(values: np.ndarray, highest: float | None = None) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that shows the positive values."""
    highest = float(np.nanmax(values)) if highest is None else highest
    lowest = max(float(values[values > 0].min()), highest / 10**_DECADES)
    return lowest / 1.5, highest * 1.5


def _value_limits(table: xr.Dataset, log: bool) -> tuple[float, float]:
    """Return the ends of the value axis, the same in every frame."""
    mean, half = table["mean"].values, np.nan_to_num(table["half"].values)
    highest, lowest = float(np.nanmax(mean + half)), float(np.nanmin(mean - half))
    if log:
        return log_limits(mean, highest)
    margin = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    return lowest - margin, highest + margin


def _positions(labels: np.ndarray) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Return where the labels lie on the axis, and its ticks, few enough to read."""
    integers = np.issubdtype(labels.dtype, np.integer)
    positions = labels if integers else np.arange(labels.size)
    every = -(-labels.size // _MOST_TICKS)
    ticks = list(zip(positions.tolist(), map(str, labels.tolist()), strict=True))
    return positions, ticks[::every]


def _margins(positions: np.ndarray, log: bool) -> tuple[float, float]:
    low, high = float(positions.min()), float(positions.max())
    if log:
        return low / 1.15, high * 1.15
    return low - 0.2 - 0.02 * (high - low), high + 0.2 + 0.02 * (high - low)
