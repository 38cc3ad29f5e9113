"""Importance against the layer or the training step."""

from collections.abc import Iterable
from typing import Literal

import holoviews as hv
import xarray as xr

from mlem_xr.plot.errors import Errorbar, summarized
from mlem_xr.plot.figures.decoding import AUC, AUC_LIMITS
from mlem_xr.plot.frames import alike, errors_of, expanded, features_to_draw, refuse, variable
from mlem_xr.plot.lines import AXES, Profile, Second, draw_profile
from mlem_xr.plot.looks import Palette, Rename, looks_of_features
from mlem_xr.plot.style import LABELS
from mlem_xr.schema import InputError, check_bool, choose

Units = Literal["mse", "r2"]

UNITS = {"mse": LABELS["importance"], "r2": "importance (drop of R²)"}
"""What importance is measured in, and the label that says so."""


def feature_importance(
    result: xr.Dataset,
    *,
    x: Literal["layer", "step"] = "layer",
    top: int = 4,
    features: Iterable[str] | None = None,
    units: Units = "mse",
    errorbar: Errorbar = "auto",
    log: bool = True,
    decoding: xr.Dataset | None = None,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw importance against the layer or the training step, one line per feature.

    Every feature has one color and marker in all figures. Where there are several seeds, the line
    is their mean. With one layer (or step) features are dots in rows. Coordinates other than seed,
    feature and the axis that have more than one value become sliders or selectors, or panels of an
    image; the others are named in the title. A frame without values stays in its place and says
    why it is empty; layers without any value are left out.

    Parameters
    ----------
    result : xr.Dataset
        What `mlem_xr.multivariate_importance` returns, or any part of it: `importance`
        (..., layer, feature) floating, in units of squared error. Lazy values are computed once.
    x : {"layer", "step"}
        The horizontal axis. Steps are on a logarithmic one, with step 0 before the first step and
        the final one at the end.
    top : int
        How many features to draw: those that lead in most panels (see `features`). The title says
        how many there are.
    features : iterable of str, optional
        The features to draw, in this order, instead of the `top` ones. These score 1 for each
        panel that they lead, 1/2 for each where they are second, and so on.
    units : {"mse", "r2"}
        The increase of the squared error, or that divided by the variance of the target: the drop
        of R², which can be compared across layers and networks. Its errors are divided by the same
        variance, whose own error is left out.
    errorbar : {"auto", "ci", "se", "seeds"}, ("ci", level) or None
        An interval (95 % by default), plus and minus a standard error, or a thin line for every
        seed. By default: thin lines for up to five seeds, 95 % intervals for more; where there is
        one seed, 95 % intervals from `std_error` (``importance +- 1.96 std_error``) if it is over
        sentences (``folds="sentences"``), and none if it is over pairs, as if they were
        independent: those are drawn if they are asked for. The title says what intervals are over.
    log : bool
        Whether the importance axis is logarithmic. What is zero, negative, or more than six decades
        below the largest value is marked by an open triangle at its foot.
    decoding : xr.Dataset, optional
        What `mlem_xr.decoding_baseline` returns for the same activations; its AUC is drawn as
        dashed lines on a second axis.
    palette : str, list or dict, optional
        Colors in the order of the features of the data, colors by feature, or a color map's name.
    rename : dict, optional
        What to write in place of the names of features, models and other labels.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. Each frame holds, by feature, `Points`: `Scatter`
        (the place on the axis; the height of the mark, and the numbers: `value`, `lower`, `upper`);
        `Lines`: `Curve`; `Foot`: marks at the foot of a logarithmic axis; and where they are drawn,
        `Bands`: `Spread` or `ErrorBars`, `Seeds`: `Curve`, and `Second`: the AUC. Dots in rows are
        `Points`, and their intervals `Segments`.

    Raises
    ------
    InputError
        If there is no `importance`, it holds only NaN or has a dimension `unit` or `k`, if
        `units="r2"` and there is no `variance`, or if another argument is not possible.

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"importance": (("layer", "feature"), [[0.02, 1e-4], [0.01, 0.0]])},
    ...     coords={"layer": [1, 2], "feature": ["tense", "number"]},
    ... )
    >>> feature_importance(result, top=1).Points.I["tense"].dframe().value.tolist()
    [0.02, 0.01]
    """
    x, log = choose("x", x, AXES), check_bool("log", log)
    units = choose("units", units, UNITS)
    values, std_error = importance_of(result, units, x, "feature")
    refuse(values, ["unit"], "draw it with unit_distribution or select one unit")
    refuse(values, ["k"], "draw it with top_k or select one k")
    summary = summarized(values, std_error, errorbar)
    chosen, note = features_to_draw(summary.table["mean"], top, features, within=(x,))
    return draw_profile(
        Profile(
            summary=summary,
            source=values,
            name="importance",
            label=UNITS[units],
            x=x,
            by="feature",
            lines=chosen,
            looks=looks_of_features(result, palette, rename),
            log=log,
            notes=[note],
            second=None if decoding is None else _auc(decoding, values, x),
        )
    )


def importance_of(
    result: xr.Dataset, units: Units, *dims: str
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """Return importance and its standard error, if there is one, in these units and dimensions."""
    found = [variable(result, "importance"), errors_of(result, "std_error")]
    if units == "r2":
        if "variance" not in result.data_vars:
            raise InputError(
                "units: 'r2' needs the variable 'variance' of the target; compute the result again "
                "with this version (refresh), or use 'mse'"
            )
        variance = variable(result, "variance")
        # What an error is over stays said in its attributes.
        found = [
            v if v is None else (v / variance).rename(v.name).assign_attrs(v.attrs) for v in found
        ]
    values, error = (v if v is None else expanded(v, *dims) for v in found)
    assert values is not None
    return values, error


def _auc(decoding: xr.Dataset, values: xr.DataArray, x: str) -> Second:
    auc = expanded(variable(decoding, "auc", argument="decoding"), x, "feature")
    auc = alike(auc, values, argument="decoding")
    low = min(AUC_LIMITS[0], float(auc.min()) - 0.02)
    return Second(values=auc, label=AUC, limits=(low, AUC_LIMITS[1]))
