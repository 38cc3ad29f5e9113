"""Every unit of every layer as a heat map."""

from collections.abc import Iterable
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from mlem_xr.plot.axes import log_limits
from mlem_xr.plot.frames import expanded, features_to_draw, figure_of, fixed
from mlem_xr.plot.looks import Looks, Rename, looks_of_features
from mlem_xr.plot.style import LABELS, styled
from mlem_xr.plot.units import over_units
from mlem_xr.schema import check_bool, check_integer, choose

_MOST_TICKS = 12


def unit_map(
    univariate: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = True,
    columns: int = 1000,
    rename: Rename = None,
) -> hv.Image | hv.HoloMap:
    """Draw a value of every unit of every layer as a heat map: layers down, units across.

    Feature and the other coordinates that have more than one value become sliders or selectors, or
    panels of an image, all on one scale of colors. Units that a layer lacks are white.

    Parameters
    ----------
    univariate : xr.Dataset
        What `mlem_xr.univariate_importance` returns, or any part of it: `importance`
        (..., layer, unit, feature) or a score (..., layer, unit), floating; also of
        `mlem_xr.concatenate_layers`, whose units go back to their layers.
    show : {"importance", "r2", "r", "mse", "mae"}
        The variable to draw.
    top, features
        As for `feature_importance`; a feature is as large as it is in its best unit.
    log : bool
        Whether the scale of importances is logarithmic; zero and less have its lowest color.
    columns : int
        Most columns of the map. Where a layer has more units, a column shows the largest of
        several neighbors, and the title says of how many.
    rename : dict, optional
        As for `feature_importance`.

    Returns
    -------
    hv.Image or hv.HoloMap
        `Image` (`unit`, `layer`: the number of the row; the variable) for the bokeh and the
        matplotlib backend.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `unit` or only NaN, or if another argument is
        not possible.

    Examples
    --------
    >>> scan = xr.Dataset({"r2": (("layer", "unit"), [[0.1, 0.3], [0.2, 0.4]])}, {"layer": [1, 2]})
    >>> unit_map(scan, show="r2").dimension_values("r2", flat=False).tolist()
    [[0.1, 0.3], [0.2, 0.4]]
    """
    columns = check_integer("columns", columns, at_least=1)
    show, log = choose("show", show, LABELS), check_bool("log", log)
    values = _by_layer(over_units(univariate, show))
    note = ""
    if show == "importance":
        values = expanded(values, "feature")
        chosen, note = features_to_draw(values, top, features, within=("layer", "unit"))
        values = values.sel(feature=chosen)
    look = looks_of_features(univariate, None, rename)
    values, neighbors = _narrow(values, columns)
    log = log and show == "importance" and bool((values > 0).any())
    if log:
        ends = log_limits(values.values)
        ends = (ends[0] * 1.6, ends[1] / 1.5)
        values = values.where(values.isnull(), values.clip(min=ends[0]))
    else:
        ends = (float(values.min()), float(values.max()))
    drawn = ("layer", "unit")
    wide = f"largest of {neighbors} neighbors" if neighbors > 1 else ""
    title = ", ".join(filter(None, (fixed(values, drawn, look), note, wide)))
    dims = ["unit", hv.Dimension("row", label=look.name("layer"))]

    def draw(frame: xr.Dataset) -> hv.Image:
        matrix = frame[show].transpose("layer", "unit").values
        rows = np.arange(len(matrix))
        units = frame["unit"].values.astype(float)
        half = neighbors / 2 if units.size > 1 else 0.5
        bounds = (units[0] - half, -0.5, units[-1] + half, len(matrix) - 0.5)
        return (
            hv.Image(
                (units, rows, matrix), dims, hv.Dimension((show, LABELS[show])), bounds=None
            ).relabel(title)
            if units.size > 1 and len(rows) > 1
            else hv.Image(
                matrix[::-1], dims, hv.Dimension((show, LABELS[show])), bounds=bounds
            ).relabel(title)
        )

    figure = figure_of(values.to_dataset(name=show), show, drawn, draw, look, source=values)
    return _styled(figure, values, look, ends, log)


def _by_layer(values: xr.DataArray) -> xr.DataArray:
    """Return layers and units, also of a network whose layers were concatenated."""
    if "unit_layer" not in values.coords:
        values = expanded(values, "layer")
        return values.assign_coords(unit=np.arange(values.sizes["unit"]))
    values = values.squeeze("layer", drop=True) if "layer" in values.dims else values
    values = values.drop_vars("layer", errors="ignore").drop_vars("unit", errors="ignore")
    values = values.rename(unit="net").set_index(net=["unit_layer", "unit_number"]).unstack("net")
    return values.rename(unit_layer="layer", unit_number="unit")


def _narrow(values: xr.DataArray, columns: int) -> tuple[xr.DataArray, int]:
    neighbors = -(-values.sizes["unit"] // columns)
    if neighbors == 1:
        return values, 1
    narrow = values.coarsen(unit=neighbors, boundary="pad").max()
    return narrow, neighbors


def _styled(
    figure: Any, values: xr.DataArray, look: Looks, ends: tuple[float, float], log: bool
) -> Any:
    layers = [look.name(layer, "layer") for layer in values["layer"].values.tolist()]
    every = -(-len(layers) // _MOST_TICKS)
    image: dict[str, Any] = {
        "cmap": "viridis",
        "clim": ends,
        "cnorm": "log" if log else "linear",
        "colorbar": True,
        # What is in brackets would not fit beside a low map.
        "clabel": LABELS[str(values.name)].split(" (")[0],
        "invert_yaxis": True,
        "yticks": list(enumerate(layers))[::every],
        "xlabel": look.name("unit"),
        "ylabel": look.name("layer"),
        "clipping_colors": {"NaN": "white"},
    }
    height = 140 + 22 * max(6, min(len(layers), 24))
    return styled(
        figure,
        "Image",
        bokeh={"Image": {"tools": ["hover"], "height": height}},
        matplotlib={"Image": {"fig_inches": (7.0, height / 100), "aspect": "auto"}},
        **image,
    )
