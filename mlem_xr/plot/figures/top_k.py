"""Importance or a score of the best units against their number."""

from collections.abc import Iterable
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.errors import Errorbar, summarized
from mlem_xr.plot.frames import errors_of, expanded, features_to_draw, refuse, variable
from mlem_xr.plot.lines import Profile, draw_profile
from mlem_xr.plot.looks import Looks, Palette, Rename, looks, looks_of_features
from mlem_xr.plot.style import LABELS, overlay_of
from mlem_xr.schema import InputError, check_bool, choose

_MOST_LABELS = 6
"""Most lines whose best k is written beside its mark; of others it shows when hovering."""

_SMALLER_IS_BETTER = ("mse", "mae")

_ERRORS = {"importance": "std_error", "r2": "r2_std_error"}
"""Standard errors of what is drawn."""


def top_k(
    result: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    errorbar: Errorbar = "auto",
    log: bool = False,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw importance or a score of the k best units against k, on a logarithmic k axis.

    Importance has one line per feature and the layer among the sliders; a score has one line per
    layer. A star marks the best k (d*) of each line with k and the value. Looks, seeds, a single
    k, sliders, title and NaN are as in `feature_importance`.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.top_unit_importance` returns, or any part of it: `importance`
        (..., layer, k, feature) or a score (..., layer, k), floating; k integer and positive.
    show : {"importance", "r2", "r", "mse", "mae"}
        The variable to draw.
    top, features, errorbar, palette, rename
        As for `feature_importance`; with a score, the palette has the colors of the layers. Of the
        scores, R² alone has standard errors (`r2_std_error`).
    log : bool
        Whether the vertical axis is logarithmic too.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend; elements as in `feature_importance`, with `k` in
        place of the layer and the variable's name in place of `importance`; also `Best`: the marks
        of the best k.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `k` or only NaN, or if another argument is not
        possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"r2": (("layer", "k"), [[0.1, 0.3], [0.4, 0.2]])},
    ...     coords={"layer": [1, 2], "k": [1, 8]},
    ... )
    >>> figure = top_k(result, show="r2")
    >>> figure.Points.I[2].dframe().r2.tolist(), figure.Best.I.dframe().k.tolist()
    ([0.4, 0.2], [8, 1])
    """
    show, log = choose("show", show, LABELS), check_bool("log", log)
    values = variable(result, show)
    refuse(values, ["unit"], "expected the result of top_unit_importance")
    if "k" not in values.coords:
        found = tuple(values.coords)
        raise InputError(f"result: {show!r} has no coordinate 'k'; found: {found}")
    by = "feature" if show == "importance" else "layer"
    values = expanded(values, "k", by)
    errors = _ERRORS.get(show)
    error = None if errors is None else errors_of(result, errors, "k", by)
    summary = summarized(values, error, errorbar)
    if by == "feature":
        look = looks_of_features(result, palette, rename)
        lines, note = features_to_draw(summary.table["mean"], top, features, within=("k",))
    else:
        look = looks(values["layer"].values.tolist(), palette, rename)
        lines, note = values["layer"].values.tolist(), ""
    ends = [float(values["k"].min()), float(values["k"].max())]

    def best(frame: xr.Dataset, floor: float) -> list[hv.Element]:
        return _best(frame, show, by, lines, floor, look, ends)

    plain = {"show_legend": False}
    color = look.cycle("color", lines)
    # On the side from which no line comes to its best k.
    beside = "top" if show in _SMALLER_IS_BETTER else "bottom"
    return draw_profile(
        Profile(
            summary=summary,
            source=values,
            name=show,
            label=LABELS[show],
            x="k",
            by=by,
            lines=lines,
            looks=look,
            log=log,
            notes=[note],
            extra=best,
            more={
                "bokeh": {
                    "Scatter.Best": {
                        **plain,
                        "marker": "star",
                        "size": 15,
                        "color": "white",
                        "line_color": "black",
                    },
                    "Labels": {
                        "text_font_size": "9pt",
                        "text_color": color,
                        "text_baseline": beside,
                    },
                    "Labels.Left": {"text_align": "right"},
                    "Labels.Right": {"text_align": "left"},
                },
                "matplotlib": {
                    "Scatter.Best": {
                        **plain,
                        "visible": True,
                        "marker": "*",
                        "s": 110,
                        "facecolors": "white",
                        "edgecolors": "black",
                    },
                    "Labels": {
                        "size": 8,
                        "color": color,
                        "verticalalignment": beside,
                        "aspect": None,
                        "apply_ticks": False,
                    },
                    "Labels.Left": {"horizontalalignment": "right"},
                    "Labels.Right": {"horizontalalignment": "left"},
                },
            },
        )
    )


def _best(
    frame: xr.Dataset,
    name: str,
    by: str,
    lines: list[Any],
    floor: float,
    looks: Looks,
    ends: list[float],
) -> list[hv.Element]:
    """Mark the best k of every line."""
    sign = -1.0 if name in _SMALLER_IS_BETTER else 1.0
    rows: list[tuple[float, float, float, str, str]] = []
    for line in lines:
        values = frame["mean"].sel({by: line})
        if bool(values.notnull().any()):
            i = int((sign * values).argmax("k"))
            value, k = float(values[i]), int(frame["k"][i])
            rows.append((k, max(value, floor), value, str(k), looks.name(line, by)))
    columns = ["k", name, "value", "at", by]
    table = pd.DataFrame(rows, columns=columns).assign(lower=np.nan, upper=np.nan)
    stars = hv.Scatter(table, "k", [name, "value", "lower", "upper", "at", by], group="Best")
    if len(lines) > _MOST_LABELS:
        return [stars]
    # Beside the star, toward the middle of the axis, and none on another.
    middle = np.sqrt(ends[0] * ends[1])
    ratio = (ends[1] / ends[0]) ** 0.02 if ends[1] > ends[0] else 1.02
    width = (ends[1] / ends[0]) ** 0.15
    height = 0.06 * float(frame["mean"].max() - frame["mean"].min())
    labels: dict[str, tuple] = {}
    taken: list[tuple[float, float]] = []

    def overlaps(x: float, y: float) -> bool:
        return any(max(x / a, a / x) < width and abs(y - b) < height for a, b in taken)

    for best, place, value, at, line in sorted(rows, key=lambda row: -row[1]):
        left = best > middle
        x = best / ratio if left else best * ratio
        while overlaps(x, place):
            place -= height / 4
        taken.append((x, place))
        labels[line] = (left, x, place, f"{at}: {value:.3g}")
    drawn = []
    for group, side in (("Left", True), ("Right", False)):
        words = {
            line: hv.Labels(
                [entry[1:]] if entry[0] == side else [], ["k", name], "text", group=group
            )
            for line in map(lambda v: looks.name(v, by), lines)
            if (entry := labels.get(line, (None,)))
        }
        drawn.append(overlay_of(words, by))
    return [stars, *drawn]
