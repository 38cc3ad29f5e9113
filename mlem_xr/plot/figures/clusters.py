"""What the units of each cluster carry."""

import warnings

import holoviews as hv
import numpy as np
import xarray as xr

from mlem_xr.plot.frames import expanded, filled, fixed, variable
from mlem_xr.plot.lines import draw_dots
from mlem_xr.plot.looks import Palette, Rename, looks_of_features
from mlem_xr.plot.style import LABELS
from mlem_xr.plot.units import over_units
from mlem_xr.schema import InputError, check_bool, shown


def clusters(
    univariate: xr.Dataset,
    cluster: xr.DataArray | xr.Dataset,
    *,
    log: bool = False,
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Overlay | hv.HoloMap:
    """Draw the mean importance of every feature over the units of each cluster, and its spread.

    A line reaches from the lower to the upper quartile of the units. Cluster, layer and the other
    coordinates that have more than one value become sliders, or panels of an image, all on one
    scale. The title says how many units a cluster has.

    Parameters
    ----------
    univariate : xr.Dataset
        What `mlem_xr.univariate_importance` returns, or any part of it: `importance`
        (..., layer, unit, feature) floating, in units of squared error.
    cluster : xr.DataArray or xr.Dataset
        What `mlem_xr.cluster_units` returns for it: `cluster` (..., layer, unit), numbers from 0,
        NaN or negative where a unit belongs to none.
    log : bool
        Whether the axis is logarithmic.
    palette, rename
        As for `feature_importance`.

    Returns
    -------
    hv.Overlay or hv.HoloMap
        For the bokeh and the matplotlib backend. Each frame holds, by feature, `Points`
        (`importance`, `row`; `value`, `lower`, `upper`) and `Bands`: `Segments`.

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
    >>> frame = clusters(scan, xr.DataArray([0, 0, 1], dims="unit"))[1]
    >>> frame.Points.I["tense"].dframe().value.tolist(), frame.label
    ([0.5], '1 of 3 units, mean and quartiles')
    """
    log = check_bool("log", log)
    importance = expanded(over_units(univariate, "importance"), "feature")
    looks = looks_of_features(univariate, palette, rename)
    numbers = _numbers(cluster)
    try:
        importance, numbers = xr.align(importance, numbers, join="exact")
    except ValueError as error:
        raise InputError(f"cluster: its coordinates are not those of univariate; {error}") from None
    known = sorted(int(n) for n in np.unique(numbers.values) if n >= 0)
    if not known:
        raise InputError("cluster: no unit belongs to a cluster, nothing to draw")
    member = numbers == xr.DataArray(known, dims="cluster", coords={"cluster": known})
    members = importance.where(member)
    with warnings.catch_warnings():
        # A cluster that a layer lacks has no quartiles, which is no reason for a warning.
        warnings.simplefilter("ignore", RuntimeWarning)
        quartiles = members.quantile([0.25, 0.75], "unit")
    table = xr.Dataset(
        {
            "mean": members.mean("unit"),
            "lower": quartiles.isel(quantile=0, drop=True),
            "upper": quartiles.isel(quantile=1, drop=True),
            "size": member.sum("unit"),
            "units": (numbers >= 0).sum("unit"),
        }
    )
    title = fixed(importance, ("unit", "feature"), looks)

    def words(frame: xr.Dataset) -> str:
        size = f"{int(frame['size'])} of {int(frame['units'])} units"
        size = size if int(frame["size"]) else ""
        return ", ".join(filter(None, (title, size, "mean and quartiles")))

    return draw_dots(
        table,
        name="importance",
        label=f"mean {LABELS['importance']}",
        by="feature",
        lines=importance["feature"].values.tolist(),
        looks=looks,
        log=log,
        title=words,
        source=importance,
        empty="no such cluster",
    )


def _numbers(cluster: xr.DataArray | xr.Dataset) -> xr.DataArray:
    if isinstance(cluster, xr.Dataset):
        cluster = variable(cluster, "cluster", argument="cluster")
    if not isinstance(cluster, xr.DataArray) or "unit" not in cluster.dims:
        found = getattr(cluster, "dims", type(cluster).__name__)
        raise InputError(f"cluster: expected a DataArray with a dimension 'unit', found {found}")
    numbers = filled(cluster.rename("cluster").compute(), argument="cluster")
    broken = numbers.values[numbers.values % 1 > 0]
    if broken.size:
        raise InputError(f"cluster: found {shown(broken[0])}; expected whole numbers")
    return numbers
