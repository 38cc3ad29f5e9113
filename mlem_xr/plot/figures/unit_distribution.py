"""How importance, or a score, is distributed over the units of each layer."""

from collections.abc import Iterable
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.axes import Axis, axis_of, foot_of, linear_limits, log_limits
from mlem_xr.plot.frames import alike, expanded, features_to_draw, figure_of, fixed, variable
from mlem_xr.plot.looks import COLORS, Looks, Palette, Rename, looks, looks_of_features
from mlem_xr.plot.significance import significance
from mlem_xr.plot.style import LABELS, overlay_of, styled
from mlem_xr.plot.units import over_units
from mlem_xr.schema import InputError, check_bool, choose

_MOST_COUNTS = 28
"""Most boxes beside which numbers are written; of others they show when hovering."""

_MOST_OUTLIERS = 20
"""Most units beyond the whiskers of one box that are drawn: the outermost."""

_SCORE = "units"

_MARKED = "significant"
_SIGNIFICANT = "Significant"

_ROOM = 0.05
"""Share of the height of the axis that is left for numbers above the highest units."""

_MOST_TICKS = 300
"""Most significant units of a box that can be told apart by their height."""


def unit_distribution(
    univariate: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = True,
    multivariate: xr.Dataset | None = None,
    top_units: xr.Dataset | None = None,
    significant: xr.Dataset | None = None,
    alpha: float = 0.05,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw how the importance of features, or a score, is distributed over the units of each layer.

    A box holds the middle half of the units, its line is the median, and the whiskers reach the
    last unit within 1.5 times the height of the box. Of the units beyond, the outermost are points,
    and their number stands above (when hovering, if there are many boxes). Features stand side by
    side. Seed and the other coordinates that have more than one value become sliders or selectors.

    Parameters
    ----------
    univariate : xr.Dataset
        What `mlem_xr.univariate_importance` returns, or any part of it: `importance`
        (..., layer, unit, feature) or a score (..., layer, unit), floating.
    show : {"importance", "r2", "r", "mse", "mae"}
        The variable to draw.
    top, features
        As for `feature_importance`; a feature is as large as it is in its best unit.
    log : bool
        Whether the axis of importances is logarithmic. An open triangle at its foot marks every
        box of which a part lies there, at zero or less, with the share of such units. Scores
        always have a linear axis.
    multivariate : xr.Dataset, optional
        What `mlem_xr.multivariate_importance` returns: a solid line, over all units together.
    top_units : xr.Dataset, optional
        What `mlem_xr.top_unit_importance` returns: a dashed line, at the k with the largest value
        in each layer.
    significant : xr.Dataset, optional
        P-values of the same units and features, of `mlem_xr.randomization_test` (``per="unit"``) or
        `mlem_xr.correct_p_values`: a Dataset with `p_value_max` or `p_value`
        (..., layer, unit, feature), matched by label. Significant units are ticks
        at the right of their box, and the number above it counts them, in place of those beyond the
        whiskers. The title says by which p-values, which are chosen as in `unit_map`.
    alpha : float
        Units with smaller p-values are significant.
    palette, rename
        As for `feature_importance`.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. Each frame holds, by feature, `Boxes`:
        `Rectangles` (the place of the box; `median`, `lower` and `upper` quartile, `units`,
        `beyond` the whiskers, `at_foot` in percent; with `significant`, how many units are),
        `Whiskers`, `Outliers`, `Foot`, and `Multivariate` and `TopUnits`: `Curve`; with
        `significant`, `Significant`: `Segments`.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `unit` or only NaN, if `significant` lacks a
        p-value of what is drawn, or if another argument is not possible.

    Examples
    --------
    >>> scan = xr.Dataset({"r2": (("layer", "unit"), [[0.1, 0.3], [0.2, 0.4]])}, {"layer": [1, 2]})
    >>> unit_distribution(scan, show="r2").Boxes.I["units"].dframe()["median"].tolist()
    [0.2, 0.30000000000000004]

    >>> dims, units = ("unit", "feature"), [[0.5, 0.1], [0.2, 0.3]]
    >>> scan = xr.Dataset({"importance": (dims, units)}, {"feature": ["tense", "number"]})
    >>> test = xr.Dataset({"p_value_max": (dims, [[0.01, 0.9], [0.2, 0.1]])}, scan.coords)
    >>> figure = unit_distribution(scan, significant=test)
    >>> figure.Boxes.I["tense"].dframe().significant.tolist()
    [1]
    """
    show, log = choose("show", show, LABELS), check_bool("log", log)
    values = expanded(over_units(univariate, show), "layer")
    note = ""
    if show == "importance":
        values = expanded(values, "feature")
        chosen, note = features_to_draw(values, top, features, within=("layer", "unit"))
        look = looks_of_features(univariate, palette, rename)
        by = "feature"
    else:
        by, chosen = "score", [_SCORE]
        values = values.expand_dims({by: chosen})
        look = looks(chosen, [COLORS[5]] if palette is None else palette, rename)
    values = values.sel({by: chosen}).dropna("layer", how="all")
    found = significance(significant, alpha, values)
    table = values.to_dataset(name=show)
    if found is not None:
        table[_MARKED] = values.where(found.mask)
    for name, given in (("Multivariate", multivariate), ("TopUnits", top_units)):
        if given is not None:
            table[name] = _line(given, name, show, by, values)
    log = log and show == "importance" and bool((values > 0).any())
    limits = _limits(table, log)
    floor = foot_of(limits) if log else -np.inf
    axis = axis_of(values["layer"].values, "layer", look)
    rungs = (np.geomspace if log else np.linspace)(*limits, _MOST_TICKS)
    drawn = ("layer", "unit", by)
    lines = {"Multivariate": "line: all units", "TopUnits": "dashed: best k units"}
    words = [fixed(values, drawn, look), note, *(v for k, v in lines.items() if k in table)]
    words += [] if found is None else [f"ticks and numbers: units with {found.words}"]
    title = ", ".join(filter(None, words))

    def draw(frame: xr.Dataset) -> hv.Overlay:
        return _frame(frame, show, by, chosen, axis, look, floor, rungs).relabel(title)

    figure = figure_of(table, show, drawn, draw, look, source=values)
    return _styled(figure, show, by, chosen, look, axis, limits, log, marked=found is not None)


def _line(given: xr.Dataset, name: str, show: str, by: str, values: xr.DataArray) -> xr.DataArray:
    """Return the values of a line, at the places of the boxes."""
    argument = {"Multivariate": "multivariate", "TopUnits": "top_units"}[name]
    line = expanded(variable(given, show, argument=argument), "layer")
    if name == "TopUnits":
        if "k" not in line.coords:
            raise InputError(f"top_units: no coordinate 'k'; found: {tuple(line.coords)}")
        line = expanded(line, "k").max("k") if show not in ("mse", "mae") else line.min("k")
    line = expanded(line, "feature") if by == "feature" else line.expand_dims({by: [_SCORE]})
    if "unit" in line.dims:
        raise InputError(f"{argument}: {show!r} has a dimension 'unit'; expected none")
    return alike(line, values, argument=argument)


def _limits(table: xr.Dataset, log: bool) -> tuple[float, float]:
    values = np.concatenate([table[name].values.ravel() for name in table.data_vars])
    values = values[np.isfinite(values)]
    low, high = log_limits(values) if log else linear_limits(values.min(), values.max())
    # Room for the numbers above the highest units.
    return low, high * (high / low) ** _ROOM if log else high + (high - low) * _ROOM


def _frame(
    frame: xr.Dataset,
    show: str,
    by: str,
    labels: list[Any],
    axis: Axis,
    look: Looks,
    floor: float,
    rungs: np.ndarray,
) -> hv.Overlay:
    spacing = np.diff(np.sort(axis.places)).min() if axis.places.size > 1 else 1.0
    width = 0.8 * float(spacing) / len(labels)
    few = axis.places.size * len(labels) <= _MOST_COUNTS
    up = hv.Dimension((show, LABELS[show]))
    parts: dict[str, dict] = {
        name: {}
        for name in (
            *("Whiskers", "Boxes", "Medians", "Marks", "Outliers", "Foot", "Counts"),
            _SIGNIFICANT,
        )
    }
    curves: dict[str, dict] = {name: {} for name in ("Multivariate", "TopUnits") if name in frame}
    for i, label in enumerate(labels):
        key = look.names.get(label, label)
        shift = (i - (len(labels) - 1) / 2) * width
        matrix = frame[show].sel({by: label}).transpose("layer", "unit").values
        places = axis.places + shift
        table, outliers = _boxes(matrix, places, axis.names, floor, show)
        facts = ["median", "units", "beyond", "at_foot", "at"]
        counted = "beyond"
        if _MARKED in frame:
            marked = frame[_MARKED].sel({by: label}).transpose("layer", "unit").values
            table[_MARKED] = np.isfinite(marked).sum(axis=1)[np.isfinite(matrix).any(axis=1)]
            facts, counted = [*facts, _MARKED], _MARKED
            ends = (places + 0.44 * width, places + 0.54 * width)
            ticks = _ticks(np.maximum(marked, floor), ends, rungs)
            parts[_SIGNIFICANT][key] = hv.Segments(
                ticks, ["layer", up, "to", "to_height"], group=_SIGNIFICANT
            )
        half = 0.42 * width
        edges = (table["place"] - half, table["lower"], table["place"] + half, table["upper"])
        parts["Boxes"][key] = hv.Rectangles(
            pd.DataFrame(dict(zip(("left", "lower", "right", "upper"), edges, strict=True))).assign(
                **table[facts]
            ),
            ["left", "lower", "right", "upper"],
            facts,
            group="Boxes",
        )
        whiskers = [
            (place, start, place, end)
            for a, b in (("low", "lower"), ("upper", "high"))
            for place, start, end in zip(table["place"], table[a], table[b], strict=True)
        ]
        parts["Whiskers"][key] = hv.Segments(whiskers, group="Whiskers")
        middle = table["median"].clip(lower=floor)
        parts["Medians"][key] = hv.Segments(
            (table["place"] - half, middle, table["place"] + half, middle), group="Medians"
        )
        parts["Marks"][key] = hv.Points((table["place"], middle), ["layer", up], group="Marks")
        parts["Outliers"][key] = hv.Points(outliers, ["layer", up], group="Outliers")
        foot = table[table["lower"] <= floor]
        parts["Foot"][key] = hv.Points(
            foot.rename(columns={"place": "layer", "lower": show})[
                ["layer", show, "at_foot", "at"]
            ],
            ["layer", up],
            ["at_foot", "at"],
            group="Foot",
        )
        if few:
            above = table[(table[counted] > 0) | (counted == _MARKED)]
            words = [f"{n}" for n in above[counted]]
            parts["Counts"][key] = hv.Labels(
                (above["place"], above["top"], words), ["layer", show], "text", group="Counts"
            )
        for name, drawn in curves.items():
            height = np.maximum(frame[name].sel({by: label}).values, floor)
            line = pd.DataFrame({"layer": places, show: height})[np.isfinite(height)]
            drawn[key] = hv.Curve(line, "layer", up, group=name)
    return hv.Overlay([overlay_of(part, by) for part in (parts | curves).values() if part])


def _ticks(marked: np.ndarray, ends: tuple[np.ndarray, np.ndarray], rungs: np.ndarray) -> list:
    """Return a tick for every height with significant units; those on one rung are one."""
    found = []
    for start, end, values in zip(*ends, marked, strict=True):
        heights = np.sort(values[np.isfinite(values)])
        _, first = np.unique(np.searchsorted(rungs, heights), return_index=True)
        found += [(start, height, end, height) for height in heights[first].tolist()]
    return found


def _boxes(
    matrix: np.ndarray, places: np.ndarray, names: list[str], floor: float, name: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row of facts per layer with values, and the outermost units beyond the whiskers."""
    rows, outliers = [], []
    for place, at, values in zip(places, names, matrix, strict=True):
        values = np.sort(values[np.isfinite(values)])
        if not values.size:
            continue
        lower, median, upper = np.percentile(values, [25, 50, 75])
        reach = 1.5 * (upper - lower)
        inside = values[(values >= lower - reach) & (values <= upper + reach)]
        beyond = values[(values < lower - reach) | (values > upper + reach)]
        drawn = np.concatenate(
            [beyond[: _MOST_OUTLIERS // 2], beyond[_MOST_OUTLIERS // 2 :][-_MOST_OUTLIERS // 2 :]]
        )
        drawn = drawn[drawn > floor]
        outliers += [(place, value) for value in drawn]
        rows.append(
            {
                "place": place,
                "at": at,
                "lower": max(lower, floor),
                "median": median,
                "upper": max(upper, floor),
                "low": max(inside[0], floor),
                "high": max(inside[-1], floor),
                "top": max(values[-1], floor),
                "units": values.size,
                "beyond": beyond.size,
                "at_foot": 100 * float((values <= floor).mean()),
            }
        )
    columns = ["place", "at", "lower", "median", "upper", "low", "high", "top", "units", "beyond"]
    return (
        pd.DataFrame(rows, columns=[*columns, "at_foot"]),
        pd.DataFrame(outliers, columns=["layer", name]),
    )


def _styled(
    figure: Any,
    show: str,
    by: str,
    labels: list[Any],
    look: Looks,
    axis: Axis,
    limits: tuple[float, float],
    log: bool,
    *,
    marked: bool,
) -> Any:
    color = look.cycle("color", labels)
    axes = {"logy": log, "ylim": limits, "xlim": (axis.limits[0] - 0.4, axis.limits[1] + 0.4)}
    # Else HoloViews would look for limits in all frames, again for each; the axes have theirs.
    axes |= {"framewise": True}
    quiet = {"show_legend": False}
    hover = [
        (look.name("layer"), "@at"),
        ("median", "@median"),
        ("quartiles", "@lower to @upper"),
        ("units", "@units"),
        ("beyond the whiskers", "@beyond"),
        ("at the foot", "@at_foot{0.} %"),
        *([(_MARKED, f"@{_MARKED}")] if marked else []),
    ]
    bokeh = {
        "Rectangles": {
            "fill_color": color,
            "line_color": color,
            "fill_alpha": 0.45,
            "tools": ["hover"],
            "hover_tooltips": hover,
            "show_grid": True,
            **quiet,
        },
        "Segments.Whiskers": {"color": color, "line_width": 1, **quiet},
        "Segments.Medians": {"color": "black", "line_width": 2, **quiet},
        "Segments.Significant": {"color": color, "line_width": 1, **quiet},
        "Points.Outliers": {"color": color, "size": 3, "alpha": 0.5, **quiet},
        "Points.Foot": {
            "marker": "inverted_triangle",
            "line_color": color,
            "fill_color": "white",
            "size": 8,
            "tools": ["hover"],
            "hover_tooltips": [(look.name("layer"), "@at"), ("at zero or less", "@at_foot{0.} %")],
            **quiet,
        },
        "Labels.Counts": {
            "text_font_size": "7pt",
            "text_color": "#444444",
            "yoffset": 0,
            "text_baseline": "bottom",
            **quiet,
        },
        "Curve": {"color": color, "line_width": 2, **quiet},
        "Curve.TopUnits": {"line_dash": "dashed"},
        "Points.Marks": {
            "color": color,
            "marker": look.cycle("marker", labels, "bokeh"),
            "line_color": "black",
            "size": 7,
        },
        "Overlay": {"legend_opts": {"title": look.name(by)}},
    }
    plain = {"aspect": None, "apply_ticks": False, **quiet}
    matplotlib = {
        "Rectangles": {
            **plain,
            "facecolor": color,
            "edgecolor": color,
            "alpha": 0.5,
            "show_grid": True,
            "gridstyle": {"color": "#e4e4e4", "zorder": -1},
        },
        "Segments": plain,
        "Segments.Whiskers": {"color": color, "linewidth": 1},
        "Segments.Medians": {"color": "black", "linewidth": 1.5},
        "Segments.Significant": {"color": color, "linewidth": 0.7},
        "Points": {**plain, "color": color},
        "Points.Outliers": {"s": 3, "alpha": 0.5},
        "Points.Foot": {"marker": "v", "facecolors": "white", "edgecolors": color, "s": 28},
        "Labels.Counts": {**plain, "size": 7, "color": "#444444", "verticalalignment": "bottom"},
        "Curve": {**plain, "color": color, "linewidth": 1.5},
        "Curve.TopUnits": {"linestyle": "--"},
        "Points.Marks": {
            "marker": look.cycle("marker", labels, "matplotlib"),
            "s": 30,
            "edgecolors": "black",
            "linewidth": 0.6,
            "show_legend": True,
        },
        "NdOverlay": {"apply_ticks": False},
    }
    types = ("Rectangles", "Segments", "Points", "Labels", "Curve", "NdOverlay", "Overlay")
    return styled(
        figure,
        "Overlay",
        bokeh=bokeh,
        matplotlib=matplotlib,
        both=dict.fromkeys(types, axes),
        xticks=axis.ticks,
        xlabel=look.name("layer"),
        ylabel=LABELS[show],
        legend_position="right",
        show_legend=by == "feature",
    )
