"""What R2 is made of, below the feature ceiling, against the layer or the training step."""

from collections.abc import Iterable
from typing import Any, Literal

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.axes import Axis, axis_of, in_order_of_steps, linear_limits
from mlem_xr.plot.errors import summarized
from mlem_xr.plot.frames import expanded, features_to_draw, figure_of, fixed, refuse, variable
from mlem_xr.plot.lines import AXES
from mlem_xr.plot.looks import Looks, Palette, Rename, looks_of_features
from mlem_xr.plot.style import LABELS, overlay_of, plain_ticks, styled
from mlem_xr.schema import InputError, choose, listed

_OTHERS_COLOR = "#c8c8c8"
_CEILING_COLOR = "#555555"

WHOLE, CEILING = "all features", "feature ceiling"
"""What the legend calls the R2 of the metric, and that of the best function of the features."""

_HALF = 0.3
"""Half the width of what stands on a single place."""


def decomposition(
    result: xr.Dataset,
    *,
    x: Literal["layer", "step"] = "layer",
    top: int = 6,
    features: Iterable[str] | None = None,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw the shares of the features in R2, one on another, below the feature ceiling.

    Shares above 0 are stacked upward, those below 0 downward. The black line is the R2 of
    all features, which shares add up to (but for the R2 of none). The gray band with dashed edges
    is the feature ceiling: where the best function of the features lies, whatever its form. Where
    there are several seeds, all of these are means. Colors, sliders and titles are as in
    `feature_importance`.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.decompose` returns, or any part of it with `share` (..., layer, feature), `r2`
        (..., layer, subset) and `r2_ceiling` (..., layer, bound).
    x : {"layer", "step"}
        The horizontal axis.
    top : int
        How many features have a color of their own: those that lead in most panels, as in
        `feature_importance`. The others are gray, together.
    features : iterable of str, optional
        These have one, in this order from below, instead of the `top` ones.
    palette, rename
        As for `feature_importance`.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. Each frame holds, by feature, `Shares`: `Area`,
        and `Points`: `Scatter` (their ends, and the numbers: `value`); `Losses`: `Area`, the shares
        below 0, if there are any; `Whole`: `Curve`, and `Marks`: `Scatter`, the R2 of all features;
        `Ceiling`: `Area`, and `Bounds`: `Curve`, its edges.

    Raises
    ------
    InputError
        If a variable or one of its labels is missing, there are only NaN or a dimension `unit`, or
        if another argument is not possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {
    ...         "share": (("layer", "feature"), [[0.3, 0.1], [0.2, 0.3]]),
    ...         "r2": (("layer", "subset"), [[0.4], [0.5]]),
    ...         "r2_ceiling": (("layer", "bound"), [[0.6, 0.62], [0.55, 0.58]]),
    ...     },
    ...     coords={
    ...         "layer": [1, 2],
    ...         "feature": ["tense", "number"],
    ...         "subset": ["tense+number"],
    ...         "bound": ["lower", "upper"],
    ...     },
    ... )
    >>> figure = decomposition(result)
    >>> figure.Shares.I["number"].dframe()[["low", "high"]].values.tolist()
    [[0.3, 0.4], [0.2, 0.5]]
    """
    x = choose("x", x, AXES)
    share = variable(result, "share")
    look = looks_of_features(result, palette, rename)
    refuse(share, ["unit"], "select one unit")
    share = expanded(share, x, "feature")
    summary = summarized(share, None, None)
    shares = summary.table["mean"]
    chosen, _ = features_to_draw(shares, top, features, within=(x,))
    table = xr.Dataset({"share": shares, **_scores(result, share, x)}).dropna(x, how="all")
    if x == "step":
        table = table.isel({x: in_order_of_steps(table[x].values)})
    drawn = (x, "feature", "seed") if share.sizes.get("seed", 1) > 1 else (x, "feature")
    title = ", ".join(filter(None, (fixed(share, drawn, look), summary.note)))
    axis = axis_of(table[x].values, x, look)
    table = table.merge(_stacked(table["share"], chosen))
    names = {label: look.name(label, "feature") for label in chosen}
    n_others = table.sizes["feature"] - len(chosen)
    if n_others:
        names[_OTHERS] = "1 other" if n_others == 1 else f"{n_others} others"

    def draw(frame: xr.Dataset) -> hv.Overlay:
        return _frame(frame, x, names, axis).relabel(title)

    figure = figure_of(table, "share", (x, "feature", "drawn"), draw, look, source=share)
    return _styled(figure, table, chosen, bool(n_others), axis, x, look)


_OTHERS = ""
"""Label of the features that are drawn together."""


def _scores(result: xr.Dataset, share: xr.DataArray, x: str) -> dict[str, xr.DataArray]:
    """Return the R2 of all features and the ends of the ceiling, means over seeds."""
    # A selection of features leaves the subset of all of them in its place.
    drawn = share["feature"].values.tolist()
    names = result.attrs.get("settings", {}).get("features", drawn)
    labels = {
        "whole": ("r2", "subset", "+".join(map(str, names))),
        "lower": ("r2_ceiling", "bound", "lower"),
        "upper": ("r2_ceiling", "bound", "upper"),
    }
    found = {}
    for key, (name, dim, label) in labels.items():
        values = variable(result, name)
        known = values[dim].values.tolist() if dim in values.dims else []
        if label not in known:
            raise InputError(
                f"result: {name!r} has no {dim} {label!r}; found: {listed(known)}; expected the "
                "result of decompose"
            )
        one = expanded(values.sel({dim: label}, drop=True), x)
        found[key] = one.mean("seed") if "seed" in one.dims else one
    return found


def _stacked(share: xr.DataArray, chosen: list[Any]) -> xr.Dataset:
    """Say where the share of each feature that is drawn begins and ends, above 0 and below."""
    parts = [share.sel(feature=label, drop=True) for label in chosen]
    rest = share.drop_sel(feature=chosen)
    labels = list(chosen)
    if rest.sizes["feature"]:
        parts.append(rest.sum("feature", min_count=1))
        labels.append(_OTHERS)
    value = xr.concat(parts, "drawn").transpose(..., "drawn").assign_coords(drawn=labels)
    # What is NaN has no place, but leaves that of the others as it is.
    above, below = value.clip(min=0).fillna(0), value.clip(max=0).fillna(0)
    high, deep = above.cumsum("drawn"), below.cumsum("drawn")
    low, under = (end.shift(drawn=1, fill_value=0) for end in (high, deep))
    ends = {"low": low, "high": high, "under": under, "deep": deep}
    return xr.Dataset({"value": value, **ends, "end": xr.where(value < 0, deep, high)})


def _frame(frame: xr.Dataset, x: str, names: dict[Any, str], axis: Axis) -> hv.Overlay:
    across, up = hv.Dimension(x), hv.Dimension(("r2", LABELS["r2"]))
    ends = ["value", "low", "high", "under", "deep", "end"]
    tables = {name: _table(frame.sel(drawn=label), ends, axis, x) for label, name in names.items()}
    areas, losses, points, keys = {}, {}, {}, {}
    for key, table in tables.items():
        wide = _wide(table, x)
        areas[key] = hv.Area(wide, across, ["high", "low"], group="Shares")
        losses[key] = hv.Area(wide, across, ["under", "deep"], group="Losses")
        points[key] = hv.Scatter(table, across, ["end", "value", "at"], group="Points")
    for key in (*names.values(), CEILING):
        keys[key] = hv.Scatter([(np.nan, np.nan)], across, up, group="Keys")
    lines = _table(frame, ["whole", "lower", "upper"], axis, x)
    wide = _wide(lines, x)
    band = hv.Area(wide, across, ["upper", "lower"], group="Ceiling")
    whole = hv.Curve(wide.rename(columns={"whole": "r2"}), across, up, group="Whole")
    bounds = {
        end: hv.Curve(wide.rename(columns={end: "r2"}), across, up, group="Bounds")
        for end in ("lower", "upper")
    }
    vdims = [up, "lower", "upper", "at"]
    marks = hv.Scatter(lines.rename(columns={"whole": "r2"}), across, vdims, group="Marks")
    negative = any((table["deep"] < 0).any() for table in tables.values())
    drawn: list[dict[str, hv.Element]] = [keys, {CEILING: band}, bounds, areas]
    drawn += [losses] if negative else []
    drawn += [points, {WHOLE: whole}, {WHOLE: marks}]
    return hv.Overlay([overlay_of(parts, "feature") for parts in drawn])


def _table(values: xr.Dataset, names: list[str], axis: Axis, x: str) -> pd.DataFrame:
    columns = {name: values[name].values for name in names}
    table = pd.DataFrame({x: axis.places.astype(float), **columns, "at": axis.names})
    return table.dropna()


def _wide(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """Give what has a single place some width."""
    if len(table) != 1:
        return table
    return pd.concat([table.assign(**{x: table[x] + side}) for side in (-_HALF, _HALF)])


def _styled(
    figure: Any, table: xr.Dataset, chosen: list[Any], others: bool, axis: Axis, x: str, look: Looks
) -> Any:
    parts = [table[name].values.ravel() for name in ("high", "deep", "whole", "lower", "upper")]
    ends = np.concatenate(parts)
    limits = axis.limits
    if len(axis.places) == 1 and not axis.log:
        limits = (float(axis.places[0]) - 2 * _HALF, float(axis.places[0]) + 2 * _HALF)
    colors = [look.color(label) for label in chosen] + [_OTHERS_COLOR] * others
    color, quiet = hv.Cycle(colors), {"show_legend": False}
    keys = {"color": hv.Cycle([*colors, _CEILING_COLOR]), "marker": "square", "size": 10}
    axes = {"logx": axis.log, "xlim": limits}
    axes["ylim"] = linear_limits(float(np.nanmin(ends)), float(np.nanmax(ends)))
    axes |= {"normalize": False, "apply_ranges": False}
    types = ("Area", "Curve", "Scatter", "NdOverlay", "Overlay")
    name, at = (look.name("feature"), "@feature"), (look.name(x), "@at")
    # What stands on a single place is a bar, whose ends are none.
    marker = "o" if len(axis.places) > 1 else ""
    black, gray = {"color": "black"}, {"color": _CEILING_COLOR}
    plain = {"aspect": None, "apply_ticks": False}
    return styled(
        figure,
        "Overlay",
        bokeh={
            "Area": {"line_alpha": 0, "show_grid": True, **quiet},
            "Area.Shares": {"color": color, "fill_alpha": 0.9},
            "Area.Losses": {"color": color, "fill_alpha": 0.9},
            "Area.Ceiling": {**gray, "fill_alpha": 0.3},
            "Scatter.Keys": keys,
            "Curve.Bounds": {**gray, "line_width": 1, "line_dash": "dashed", **quiet},
            "Curve.Whole": {**black, "line_width": 2},
            "Scatter.Points": {
                **{"color": color, "size": 6, "line_color": "white", "tools": ["hover"]},
                **{"hover_tooltips": [name, at, ("share", "@value")], **quiet},
            },
            "Scatter.Marks": {
                **{"color": "white", "line_color": "black", "size": 7, "tools": ["hover"], **quiet},
                "hover_tooltips": [at, (WHOLE, "@r2"), ("lower", "@lower"), ("upper", "@upper")],
            },
            "Overlay": {"legend_opts": {"title": look.name("feature")}},
        },
        matplotlib={
            "Area": {**plain, "linewidth": 0, **quiet},
            "Area.Shares": {"facecolor": color, "alpha": 0.9},
            "Area.Losses": {"facecolor": color, "alpha": 0.9},
            "Area.Ceiling": {"facecolor": hv.Cycle([_CEILING_COLOR]), "alpha": 0.3},
            "Curve": plain,
            "Curve.Bounds": {**gray, "linewidth": 0.8, "linestyle": "--", **quiet},
            "Curve.Whole": {**black, "linewidth": 1.5, "ms": 4, "marker": marker},
            "Scatter": {**plain, "visible": False, **quiet},
            "Scatter.Keys": {
                **{"visible": True, "show_legend": True, "color": keys["color"]},
                **{"marker": "s", "s": 60},
            },
            "Overlay": {"hooks": [plain_ticks] if axis.log else []},
            "NdOverlay": {"apply_ticks": False},
        },
        both=dict.fromkeys(types, axes),
        xticks=axis.ticks,
        xlabel=look.name(x),
        ylabel=LABELS["r2"],
        legend_position="right",
    )
