"""Lines with errors against an axis, and dots with errors in rows where the axis has one place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import FixedTicker, LinearAxis, LogAxis
from matplotlib.ticker import NullLocator

from mlem_xr.plot.axes import (
    Axis,
    axis_of,
    foot_of,
    in_order_of_steps,
    linear_limits,
    linear_ticks,
    log_limits,
    log_ticks,
)
from mlem_xr.plot.errors import Summary
from mlem_xr.plot.frames import figure_of, fixed
from mlem_xr.plot.looks import Looks
from mlem_xr.plot.style import (
    BACKENDS,
    HEIGHT,
    Options,
    dot_options,
    line_options,
    merged,
    overlay_of,
    plain_ticks,
    styled,
)

AXES = ("layer", "step")
"""What profiles may be drawn against."""


@dataclass(frozen=True, kw_only=True)
class Second:
    """Values on an axis of their own, at the right: dashed lines in the colors of the others."""

    values: xr.DataArray
    label: str
    limits: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that a figure of lines shows."""

    summary: Summary
    source: xr.DataArray
    """What was summarized, with all its coordinates."""
    name: str
    """Of the variable."""
    label: str
    """Of the value axis."""
    x: str
    by: str
    """The dimension of the lines."""
    lines: list[Any]
    looks: Looks
    log: bool = False
    notes: list[str] = field(default_factory=list)
    second: Second | None = None
    band: tuple[float, float] | None = None
    """Ends of the value axis, if not those of the values."""
    baseline: float | None = None
    """A value to compare with, which gets a line across."""
    extra: Callable[[xr.Dataset, float], list[hv.Element]] = lambda frame, floor: []
    """More elements of a frame."""
    more: dict[str, Options] = field(default_factory=dict)
    """Options of those, by backend."""


def draw_profile(profile: Profile) -> Any:
    """Draw every frame: lines, or dots in rows if there is one place on the axis."""
    x, by = profile.x, profile.by
    table = profile.summary.table
    if profile.summary.seeds is not None:
        table = table.assign(seeds=profile.summary.seeds)
    if profile.second is not None:
        table = table.assign(second=profile.second.values)
    table = table.sel({by: profile.lines}).dropna(x, how="all", subset=["mean"])
    if x == "step":
        table = table.isel({x: in_order_of_steps(table[x].values)})
    if table.sizes[x] == 1 and profile.second is None:
        return _dots(profile, table)
    return _lines(profile, table)


def value_limits(table: xr.Dataset, log: bool) -> tuple[float, float]:
    """Return the ends of the value axis, the same in every frame."""
    parts = [
        table[name].values.ravel() for name in ("mean", "lower", "upper", "seeds") if name in table
    ]
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if log:
        return log_limits(table["mean"].values, float(values.max()))
    return linear_limits(float(values.min()), float(values.max()))


def _title(profile: Profile, drawn: tuple[str, ...]) -> str:
    parts = [fixed(profile.source, (*drawn, "seed"), profile.looks)]
    if profile.source.sizes.get("seed", 1) < 2:
        parts = [fixed(profile.source, drawn, profile.looks)]
    return ", ".join(filter(None, (*parts, profile.summary.note, *profile.notes)))


def _lines(profile: Profile, table: xr.Dataset) -> Any:
    x, by, looks, log = profile.x, profile.by, profile.looks, profile.log
    log = log and bool((table["mean"] > 0).any())
    axis = axis_of(table[x].values, x, looks)
    limits = profile.band or value_limits(table, log)
    floor = foot_of(limits) if log else -np.inf
    title = _title(profile, (x, by))

    def draw(frame: xr.Dataset) -> hv.Overlay:
        return _line_frame(profile, frame, axis, limits, floor).relabel(title)

    drawn = (x, by, "seed") if "seeds" in table else (x, by)
    figure = figure_of(table, "mean", drawn, draw, looks, source=profile.source)
    axes = {"logy": log, "logx": axis.log, "xlim": axis.limits, "ylim": limits}
    # Else HoloViews would look for limits in every line of every frame, and again for each frame.
    axes |= {"normalize": False, "apply_ranges": False}
    hover = [(looks.name(by), f"@{by}"), (looks.name(x), "@at"), (profile.label, "@value")]
    hover += [("lower", "@lower"), ("upper", "@upper")]
    types = ("Curve", "Scatter", "Spread", "ErrorBars", "NdOverlay", "Overlay", "HLine", "Labels")
    both = dict.fromkeys(types, axes)
    both["HLine"] = axes | {"color": "#888888"}
    hooks: dict[str, list] = {"bokeh": [], "matplotlib": [plain_ticks] if axis.log else []}
    if profile.second is not None:
        hooks = {
            "bokeh": [_second_of_bokeh(profile.second, limits, log)],
            "matplotlib": [
                *hooks["matplotlib"],
                _second_of_matplotlib(profile.second, limits, log),
            ],
        }
    n = len(profile.lines)
    own: dict[str, Options] = {
        "bokeh": {
            "Scatter": {"hover_tooltips": hover},
            "HLine": {"line_width": 1, "line_dash": "dotted"},
            "Overlay": {
                "legend_opts": {"title": looks.name(by)},
                # Else the legend of many lines would be cut.
                "height": max(HEIGHT, 90 + 24 * (n + 1)),
                "hooks": hooks["bokeh"],
            },
        },
        "matplotlib": {
            "HLine": {
                "linewidth": 0.8,
                "linestyle": ":",
                "apply_ticks": False,
                "aspect": None,
            },
            "Overlay": {"hooks": hooks["matplotlib"]},
        },
    }
    options = {
        backend: merged(
            line_options(looks, profile.lines, backend), own[backend], profile.more.get(backend, {})
        )
        for backend in BACKENDS
    }
    return styled(
        figure,
        "Overlay",
        **options,
        both=both,
        xticks=axis.ticks,
        xlabel=looks.name(x),
        ylabel=profile.label,
        legend_position="right",
    )


def _line_frame(
    profile: Profile, frame: xr.Dataset, axis: Axis, limits: tuple[float, float], floor: float
) -> hv.Overlay:
    name, x, by, looks = profile.name, profile.x, profile.by, profile.looks
    across, up = hv.Dimension(x), hv.Dimension((name, profile.label))
    parts = {}
    for label in profile.lines:
        line = frame.sel({by: label})
        parts[looks.names.get(label, label)] = (line, _table(line, name, axis, x, floor))
    shown = {key: table for key, (_, table) in parts.items()}
    vdims = [up, "value", "lower", "upper", "at"]
    found = []
    if frame["lower"].notnull().any() or _any_interval(profile):
        kind = hv.Spread if profile.summary.over_seeds else hv.ErrorBars
        bands = {
            key: kind(_band(table, name, floor), across, [up, "below", "above"], group="Bands")
            for key, table in shown.items()
        }
        found.append(overlay_of(bands, by))
    if "seeds" in frame:
        seeds = {
            key: hv.Curve(
                _seeds(line["seeds"], axis.places, name, x, floor), across, up, group="Seeds"
            )
            for key, (line, _) in parts.items()
        }
        found.append(overlay_of(seeds, by))
    lines = {key: hv.Curve(table, across, up, group="Lines") for key, table in shown.items()}
    points = {
        key: hv.Scatter(table[table["value"] > floor], across, vdims, group="Points")
        for key, table in shown.items()
    }
    found += [overlay_of(lines, by), overlay_of(points, by)]
    if np.isfinite(floor):
        foot = {
            key: hv.Scatter(table[table["value"] <= floor], across, vdims, group="Foot")
            for key, table in shown.items()
        }
        found.append(overlay_of(foot, by))
    if profile.second is not None:
        found += _second_lines(profile, parts, axis, limits)
    if profile.baseline is not None:
        found.insert(0, hv.HLine(profile.baseline))
    return hv.Overlay([*found, *profile.extra(frame, floor)])


def _any_interval(profile: Profile) -> bool:
    return bool(profile.summary.table["lower"].notnull().any())


def _table(line: xr.Dataset, name: str, axis: Axis, x: str, floor: float) -> pd.DataFrame:
    """Return the numbers of a line; what lies below the axis is drawn at its foot."""
    mean = line["mean"].values
    table = pd.DataFrame(
        {
            x: axis.places,
            name: np.maximum(mean, floor),
            "value": mean,
            "lower": line["lower"].values,
            "upper": line["upper"].values,
            "at": axis.names,
        }
    )
    return table[np.isfinite(mean)]


def _band(table: pd.DataFrame, name: str, floor: float) -> pd.DataFrame:
    # HoloViews takes the minimum of a band that is not empty, and warns of one that is NaN.
    table = table[table["lower"].notna()]
    lower, upper = (table[end].clip(lower=floor) for end in ("lower", "upper"))
    return table.assign(below=table[name] - lower, above=upper - table[name])


def _seeds(
    values: xr.DataArray, places: np.ndarray, name: str, x: str, floor: float
) -> pd.DataFrame:
    """Return the lines of all seeds as one, with a gap between two."""
    matrix = values.transpose("seed", x).values
    gap = np.full((len(matrix), 1), np.nan)
    heights = np.hstack([np.where(np.isfinite(matrix), np.maximum(matrix, floor), np.nan), gap])
    along = np.tile([*places.astype(float), np.nan], len(matrix))
    return pd.DataFrame({x: along, name: heights.ravel()})


def _second_lines(
    profile: Profile, parts: dict, axis: Axis, limits: tuple[float, float]
) -> list[hv.NdOverlay]:
    assert profile.second is not None
    x, name, by = profile.x, profile.name, profile.by
    up = hv.Dimension((name, profile.label))
    tables = {}
    for key, (line, _) in parts.items():
        value = line["second"].values
        place = _on_the_first_axis(value, profile.second.limits, limits, profile.log)
        table = pd.DataFrame({x: axis.places, name: place, "value": value, "at": axis.names})
        table = table.assign(lower=np.nan, upper=np.nan)
        tables[key] = table[np.isfinite(value)]
    curves = {key: hv.Curve(table, x, up, group="Second") for key, table in tables.items()}
    vdims = [up, "value", "lower", "upper", "at"]
    points = {key: hv.Scatter(table, x, vdims, group="Second") for key, table in tables.items()}
    return [overlay_of(curves, by), overlay_of(points, by)]


def _on_the_first_axis(
    values: Any, second: tuple[float, float], first: tuple[float, float], log: bool
) -> Any:
    """Return where values of the second axis lie on the first one."""
    share = (np.asarray(values) - second[0]) / (second[1] - second[0])
    if log:
        return first[0] * (first[1] / first[0]) ** share
    return first[0] + (first[1] - first[0]) * share


def _second_ticks(second: Second, limits: tuple[float, float], log: bool) -> dict[float, str]:
    values = np.arange(np.ceil(second.limits[0] * 10) / 10, second.limits[1], 0.1).round(10)
    places = _on_the_first_axis(values, second.limits, limits, log)
    return {float(p): f"{v:g}" for p, v in zip(places, values, strict=True)}


def _second_of_bokeh(second: Second, limits: tuple[float, float], log: bool) -> Callable:
    def hook(plot: Any, _: Any) -> None:
        if any(
            axis.axis_label == second.label
            for axis in plot.state.right
            if hasattr(axis, "axis_label")
        ):
            return
        ticks = _second_ticks(second, limits, log)
        kind: Any = LogAxis if log else LinearAxis
        axis = kind(
            axis_label=second.label,
            ticker=FixedTicker(ticks=list(ticks)),
            major_label_overrides=ticks,
            axis_label_text_font_size="11pt",
            axis_label_text_font_style="normal",
            major_label_text_font_size="10pt",
        )
        plot.state.add_layout(axis, "right")

    return hook


def _second_of_matplotlib(second: Second, limits: tuple[float, float], log: bool) -> Callable:
    def hook(plot: Any, _: Any) -> None:
        ticks = _second_ticks(second, limits, log)
        axis = plot.handles["axis"].secondary_yaxis("right")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_yticks(list(ticks), list(ticks.values()))
        axis.set_ylabel(second.label)

    return hook


def _dots(profile: Profile, table: xr.Dataset) -> Any:
    """Draw labels in rows, with the values across."""
    table = table.isel({profile.x: 0})
    return draw_dots(
        table,
        name=profile.name,
        label=profile.label,
        by=profile.by,
        lines=profile.lines,
        looks=profile.looks,
        log=profile.log,
        title=_title(profile, (profile.by,)),
        source=profile.source,
    )


def draw_dots(
    table: xr.Dataset,
    *,
    name: str,
    label: str,
    by: str,
    lines: list[Any],
    looks: Looks,
    log: bool,
    title: str | Callable[[xr.Dataset], str],
    source: xr.DataArray,
    empty: str = "",
) -> Any:
    """Draw `mean`, `lower` and `upper` of every label in a row of its own, in every frame."""
    log = log and bool((table["mean"] > 0).any())
    limits = value_limits(table, log)
    floor = foot_of(limits) if log else -np.inf
    across, down = hv.Dimension((name, label)), hv.Dimension("row")
    names = [looks.name(line, by) for line in lines]

    def draw(frame: xr.Dataset) -> hv.Overlay:
        drawn = _dot_frame(frame, by, lines, looks, floor, across, down)
        return drawn.relabel(title if isinstance(title, str) else title(frame))

    drawn = (by, "seed") if "seeds" in table else (by,)
    figure = figure_of(table, "mean", drawn, draw, looks, source=source, empty=empty)
    n = len(lines)
    axes = {"logx": log, "xlim": limits, "ylim": (-0.5, n - 0.5), "invert_yaxis": True}
    # Else HoloViews would look for limits in all frames, again for each; the axes have theirs.
    axes |= {"framewise": True}
    types = ("Points", "Segments", "NdOverlay", "Overlay")
    hover = [
        (looks.name(by), f"@{by}"),
        (label, "@value"),
        ("lower", "@lower"),
        ("upper", "@upper"),
    ]
    own: dict[str, Options] = {
        "bokeh": {
            "Points.Points": {"hover_tooltips": hover},
            "Points.Foot": {"hover_tooltips": hover},
            "Overlay": {"height": 120 + 26 * n, "width": 620},
        },
        "matplotlib": {
            "Overlay": {"fig_inches": (5.5, 1.2 + 0.26 * n), "hooks": [plain_ticks] if log else []}
        },
    }
    options = {
        backend: merged(dot_options(looks, lines, backend), own[backend]) for backend in BACKENDS
    }
    return styled(
        figure,
        "Overlay",
        **options,
        both=dict.fromkeys(types, axes),
        yticks=list(enumerate(names)),
        xticks=log_ticks(limits) if log else linear_ticks(limits),
        xlabel=label,
        ylabel="",
        show_legend=False,
    )


def _dot_frame(
    frame: xr.Dataset,
    by: str,
    lines: list[Any],
    looks: Looks,
    floor: float,
    across: hv.Dimension,
    down: hv.Dimension,
) -> hv.Overlay:
    points, feet, segments, seeds = {}, {}, {}, {}
    for row, line in enumerate(lines):
        part = frame.sel({by: line})
        key = looks.names.get(line, line)
        value, lower, upper = (float(part[n].values) for n in ("mean", "lower", "upper"))
        numbers = pd.DataFrame(
            {across.name: [max(value, floor)], "row": [row], "value": [value]}
            | {"lower": [lower], "upper": [upper]}
        ).dropna(subset=["value"])
        dims = ([across, down], ["value", "lower", "upper"])
        points[key] = hv.Points(numbers[numbers["value"] > floor], *dims, group="Points")
        feet[key] = hv.Points(numbers[numbers["value"] <= floor], *dims, group="Foot")
        ends = [(max(lower, floor), row, max(upper, floor), row)] if np.isfinite(lower) else []
        segments[key] = hv.Segments(ends, [across, down, "to", "to_row"], group="Bands")
        if "seeds" in frame:
            heights = part["seeds"].values
            heights = np.maximum(heights[np.isfinite(heights)], floor)
            places = (heights, np.full(heights.size, row))
            seeds[key] = hv.Points(places, [across, down], group="Seeds")
    found = [overlay_of(segments, by)] if frame["lower"].notnull().any() else []
    found += [overlay_of(seeds, by)] if seeds else []
    found.append(overlay_of(points, by))
    return hv.Overlay([*found, *([overlay_of(feet, by)] if np.isfinite(floor) else [])])
