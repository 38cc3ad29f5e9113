"""How well features are decoded, against the layer or the training step."""

from collections.abc import Iterable
from typing import Literal

import holoviews as hv
import xarray as xr

from mlem_xr.plot.errors import Errorbar, summarized
from mlem_xr.plot.frames import errors_of, expanded, features_to_draw, refuse, variable
from mlem_xr.plot.lines import AXES, Profile, draw_profile, value_limits
from mlem_xr.plot.looks import Palette, Rename, looks_of_features
from mlem_xr.schema import choose

AUC = "decoding (AUC)"

AUC_LIMITS = (0.45, 1.02)
"""Ends of the axis, unless there are smaller values."""

CHANCE = 0.5


def decoding(
    result: xr.Dataset,
    *,
    x: Literal["layer", "step"] = "layer",
    top: int = 4,
    features: Iterable[str] | None = None,
    errorbar: Errorbar = "auto",
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw how well a linear classifier reads each feature, against the layer or the step.

    The dotted line is chance. Looks, seeds, sliders and titles are as in `feature_importance`.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.decoding_baseline` returns, or any part of it: `auc` (..., layer, feature).
    x, top, features, errorbar, palette, rename
        As for `feature_importance`.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        As `feature_importance`, with `auc` in place of `importance`.

    Raises
    ------
    InputError
        If there is no `auc`, it holds only NaN, or another argument is not possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"auc": (("layer", "feature"), [[0.9, 0.5], [0.8, 0.6]])},
    ...     coords={"layer": [1, 2], "feature": ["tense", "number"]},
    ... )
    >>> decoding(result).Points.I["number"].dframe().value.tolist()
    [0.5, 0.6]
    """
    x = choose("x", x, AXES)
    values = variable(result, "auc")
    refuse(values, ["unit", "k"], "expected the result of decoding_baseline")
    values = expanded(values, x, "feature")
    summary = summarized(values, errors_of(result, "std_error", x, "feature"), errorbar)
    chosen, note = features_to_draw(summary.table["mean"], top, features, within=(x,))
    low, high = value_limits(summary.table.sel(feature=chosen), False)
    return draw_profile(
        Profile(
            summary=summary,
            source=values,
            name="auc",
            label=AUC,
            x=x,
            by="feature",
            lines=chosen,
            looks=looks_of_features(result, palette, rename),
            notes=[note],
            band=(min(low, AUC_LIMITS[0]), max(high, AUC_LIMITS[1])),
            baseline=CHANCE,
        )
    )
