"""Figures of a unit scan: clusters of units, and distributions over units."""

from collections.abc import Iterable
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.plot.frames import chosen, expanded, figure_of, fixed, variable
from mlem_xr.plot.profiles import LABELS, log_limits
from mlem_xr.plot.style import COLORS, styled
from mlem_xr.schema import InputError, choose


def clusters(univariate: xr.Dataset, cluster: xr.DataArray | xr.Dataset) -> hv.Bars | hv.HoloMap:
    """Draw the mean importance of every feature over the units of each cluster.

    Cluster, layer and the other coordinates that have more than one value become sliders; saved as
    an image, the clusters lie side by side. The title says how many units a cluster has; each frame
    has its own scale.

    Parameters
    ----------
    univariate : xr.Dataset
        What `mlem_xr.univariate_importance` returns, or any part of it: `importance`
        (..., layer, unit, feature) floating, in units of squared error.
    cluster : xr.DataArray or xr.Dataset
        What `mlem_xr.cluster_units` returns for it: `cluster` (..., layer, unit), numbers from 0,
        NaN or negative where a unit belongs to none.

    Returns
    -------
    hv.Bars or hv.HoloMap
        `Bars` (feature; `importance`) for the bokeh and the matplotlib backend.

    Raises
    ------
    InputError
        If `importance` or `cluster` is missing or has no `unit`, their coordinates differ, or no
        unit belongs to a cluster.

    Examples
    --------
    >>> scan = xr.Dataset(
    ...     {"importance": (("unit", "feature"), [[0.3], [0.1], [0.5]])},
    ...     coords={"feature": ["tense"]},
    ... )
    >>> figure = clusters(scan, xr.DataArray([0, 0, 1], dims="unit"))
    >>> figure[1].dframe().importance.tolist(), figure[1].label
    ([0.5], '1 of 3 units')
    """
    importance = expanded(_over_units(univariate, "importance"), "feature")
    numbers = _numbers(cluster)
    try:
        importance, numbers = xr.align(importance, numbers, join="exact")
    except ValueError as error:
        raise InputError(f"cluster: its coordinates are not those of univariate; {error}") from None
    known = sorted(int(n) for n in np.unique(numbers.values) if n >= 0)
    if not known:
        raise InputError("cluster: no unit belongs to a cluster, nothing to draw")
    member = numbers == xr.DataArray(known, dims="cluster", coords={"cluster": known})
    table = xr.Dataset(
        {
            "importance": importance.where(member).mean("unit"),
            "size": member.sum("unit"),
            "units": (numbers >= 0).sum("unit"),
        }
    )
    title = fixed(importance, ("unit", "feature"))

    def draw(frame: xr.Dataset) -> hv.Bars:
        size = f"{int(frame['size'])} of {int(frame['units'])} units"
        up = hv.Dimension(("importance", f"mean {LABELS['importance']}"))
        names = [str(name) for name in frame.feature.values]
        bars = hv.Bars((names, frame["importance"].values), "feature", up)
        return bars.relabel(", ".join(filter(None, (title, size))))

    figure = figure_of(table, "importance", ("feature",), draw)
    return styled(
        figure,
        "Bars",
        bokeh={"Bars": {"color": COLORS[0], "line_color": None, "tools": ["hover"], "height": 500}},
        matplotlib={"Bars": {"color": COLORS[0], "edgecolor": "none"}},
        xrotation=45,
        xlabel="",
        yformatter="%.2g",
        framewise=True,
    )


def unit_distribution(
    univariate: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = True,
) -> hv.BoxWhisker | hv.HoloMap:
    """Draw how a feature's importance, or a score, is distributed over the units of each layer.

    A box holds the middle half of the units, its line is the median, and the whiskers reach the
    last unit within 1.5 times the height of the box; units beyond are points. Feature, seed and
    the other coordinates that have more than one value become sliders or selectors.

    Parameters
    ----------
    univariate : xr.Dataset
        What `mlem_xr.univariate_importance` returns, or any part of it: `importance`
        (..., layer, unit, feature) or a score (..., layer, unit), floating.
    show : {"importance", "r2", "r", "mse", "mae"}
        The variable to draw.
    top : int
        How many features to offer: those with the largest importance in any unit.
    features : iterable of str, optional
        The features to offer, in this order, instead of the `top` ones.
    log : bool
        Whether the axis of importances is logarithmic; zero and less lie at its lower end. Scores
        always have a linear axis.

    Returns
    -------
    hv.BoxWhisker or hv.HoloMap
        `BoxWhisker` (layer; the variable) for the bokeh and the matplotlib backend.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `unit` or only NaN, or if a feature or `top`
        is not possible.

    Examples
    --------
    >>> scan = xr.Dataset({"r2": (("layer", "unit"), [[0.1, 0.3], [0.2, 0.4]])}, {"layer": [1, 2]})
    >>> unit_distribution(scan, show="r2").dframe().r2.tolist()
    [0.1, 0.3, 0.2, 0.4]
    """
    values = _over_units(univariate, choose("show", show, LABELS))
    values = expanded(values, "layer")
    if show == "importance":
        values = expanded(values, "feature")
        values = values.sel(feature=chosen(values, "feature", top, features))
    log = log and show == "importance" and bool((values > 0).any())
    limits = log_limits(values.values) if log else None
    if limits:
        values = values.clip(min=limits[0])
    drawn = ("layer", "unit")
    title = fixed(values, drawn)

    def draw(frame: xr.Dataset) -> hv.BoxWhisker:
        table = _layers_and_values(frame[show])
        return hv.BoxWhisker(table, "layer", hv.Dimension((show, LABELS[show]))).relabel(title)

    figure = figure_of(values.to_dataset(name=show), show, drawn, draw)
    return _boxes(figure, log, limits)


def _boxes(
    figure: hv.BoxWhisker, log: bool, limits: tuple[float, float] | None
) -> hv.BoxWhisker | hv.HoloMap:
    frame: dict[str, Any] = {"ylim": limits} if limits else {}
    return styled(
        figure,
        "BoxWhisker",
        bokeh={"BoxWhisker": {"box_fill_color": COLORS[5], "outlier_alpha": 0.3}},
        matplotlib={"BoxWhisker": {"boxprops": {"color": "k"}, "flierprops": {"markersize": 2}}},
        logy=log,
        show_legend=False,
        **frame,
    )


def _over_units(univariate: xr.Dataset, name: str) -> xr.DataArray:
    values = variable(univariate, name, argument="univariate")
    if "unit" not in values.dims:
        raise InputError(f"univariate: {name!r} has no dimension 'unit'; found: {values.dims}")
    return values


def _numbers(cluster: xr.DataArray | xr.Dataset) -> xr.DataArray:
    if isinstance(cluster, xr.Dataset):
        cluster = variable(cluster, "cluster", argument="cluster")
    if not isinstance(cluster, xr.DataArray) or "unit" not in cluster.dims:
        found = getattr(cluster, "dims", type(cluster).__name__)
        raise InputError(f"cluster: expected a DataArray with a dimension 'unit', found {found}")
    return cluster.compute()


def _layers_and_values(values: xr.DataArray) -> pd.DataFrame:
    stacked = values.transpose("layer", "unit")
    table = pd.DataFrame(
        {
            "layer": np.repeat(stacked.layer.values.astype(str), stacked.sizes["unit"]),
            str(values.name): stacked.values.ravel(),
        }
    )
    return table.dropna()
