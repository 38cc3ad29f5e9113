"""Every unit of every layer as a heat map."""

from collections.abc import Iterable
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from mlem_xr.plot.axes import log_limits
from mlem_xr.plot.frames import expanded, features_to_draw, figure_of, fixed
from mlem_xr.plot.looks import Looks, Rename, looks_of_features
from mlem_xr.plot.significance import significance
from mlem_xr.plot.style import LABELS, WIDTH, styled
from mlem_xr.plot.units import over_units
from mlem_xr.schema import check_bool, check_integer, choose

_MOST_TICKS = 12

_BESIDE = 200
"""Pixels beside a map: names of layers, colors, tools."""

_MARKED = "significant"

_VEIL = ["#ffffffd0", "#ffffff00"]
"""Colors over units that are not significant, and over those that are."""


def unit_map(
    univariate: xr.Dataset,
    *,
    show: str = "importance",
    top: int = 4,
    features: Iterable[str] | None = None,
    log: bool = True,
    columns: int = 1000,
    significant: xr.Dataset | None = None,
    alpha: float = 0.05,
    rename: Rename = None,
) -> hv.Image | hv.Overlay | hv.HoloMap:
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
    significant : xr.Dataset, optional
        P-values of the same units and features, of `mlem_xr.randomization_test` (``per="unit"``) or
        `mlem_xr.correct_p_values`: a Dataset with `p_value_max` or `p_value`
        (..., layer, unit, feature), matched by label. Units that are not
        significant are pale (of several neighbors, if none is). The title counts those that are,
        and says by which p-values: `p_value_max` (family-wise) if it is there, unless `p_value` was
        corrected.
    alpha : float
        Units with smaller p-values are significant.
    rename : dict, optional
        As for `feature_importance`.

    Returns
    -------
    hv.Image, hv.Overlay or hv.HoloMap
        `Image` (`unit`, `layer`: the number of the row; the variable) for the bokeh and the
        matplotlib backend; with `significant`, an Overlay of this one, `Units`, and `Significant`:
        1 where a unit is, else 0.

    Raises
    ------
    InputError
        If the variable is unknown, missing, without `unit` or only NaN, if `significant` lacks a
        p-value of what is drawn, or if another argument is not possible.

    Examples
    --------
    >>> scan = xr.Dataset({"r2": (("layer", "unit"), [[0.1, 0.3], [0.2, 0.4]])}, {"layer": [1, 2]})
    >>> unit_map(scan, show="r2").dimension_values("r2", flat=False).tolist()
    [[0.1, 0.3], [0.2, 0.4]]

    >>> dims, units = ("unit", "feature"), [[0.5, 0.1], [0.2, 0.3]]
    >>> scan = xr.Dataset({"importance": (dims, units)}, {"feature": ["tense", "number"]})
    >>> test = xr.Dataset({"p_value_max": (dims, [[0.01, 0.9], [0.2, 0.1]])}, scan.coords)
    >>> unit_map(scan, features=["tense"], significant=test).label
    'feature tense, full color: p < 0.05 family-wise, 1 of 2 units'
    """
    columns = check_integer("columns", columns, at_least=1)
    show, log = choose("show", show, LABELS), check_bool("log", log)
    values = over_units(univariate, show)
    note = ""
    if show == "importance":
        values = expanded(values, "feature")
        chosen, note = features_to_draw(values, top, features, within=("layer", "unit"))
        values = values.sel(feature=chosen)
    found = significance(significant, alpha, values)
    table = values.to_dataset(name=show)
    drawn = ("layer", "unit")
    if found is not None:
        table[_MARKED] = found.mask.astype(float).where(values.notnull())
    table = _by_layer(table)
    if found is not None:
        counts = {"n_units": table[show].notnull(), "n_marked": table[_MARKED]}
        table = table.assign({name: counted.sum(drawn) for name, counted in counts.items()})
    table, neighbors = _narrow(table, columns)
    values = table[show]
    look = looks_of_features(univariate, None, rename)
    log = log and show == "importance" and bool((values > 0).any())
    if log:
        ends = log_limits(values.values)
        ends = (ends[0] * 1.6, ends[1] / 1.5)
        table[show] = values.clip(min=ends[0])
    else:
        ends = (float(values.min()), float(values.max()))
    wide = f"largest of {neighbors} neighbors" if neighbors > 1 else ""
    by = "" if found is None else f"full color: {found.words}"
    title = ", ".join(filter(None, (fixed(values, drawn, look), note, wide, by)))
    dims = ["unit", hv.Dimension("row", label=look.name("layer"))]

    def image(matrix: xr.DataArray, value: hv.Dimension) -> hv.Image:
        numbers = matrix.transpose("layer", "unit").values
        places, rows = matrix["unit"].values.astype(float), np.arange(len(numbers))
        if places.size > 1 and len(rows) > 1:
            return hv.Image((places, rows, numbers), dims, value)
        half = neighbors / 2 if places.size > 1 else 0.5
        bounds = (places[0] - half, -0.5, places[-1] + half, len(rows) - 0.5)
        return hv.Image(numbers[::-1], dims, value, bounds=bounds)

    def draw(frame: xr.Dataset) -> hv.Image | hv.Overlay:
        units = image(frame[show], hv.Dimension((show, LABELS[show])))
        if found is None:
            return units.relabel(title)
        veil = image(frame[_MARKED], hv.Dimension(_MARKED)).relabel(group="Significant")
        count = f"{int(frame['n_marked']):,} of {int(frame['n_units']):,} units"
        return (units.relabel(group="Units") * veil).relabel(f"{title}, {count}")

    figure = figure_of(table, show, drawn, draw, look, source=values)
    return _styled(figure, values, look, ends, log, veiled=found is not None)


def _by_layer(values: xr.Dataset) -> xr.Dataset:
    """Return layers and units, also of a network whose layers were concatenated."""
    if "unit_layer" not in values.coords:
        values = expanded(values, "layer")
        return values.assign_coords(unit=np.arange(values.sizes["unit"]))
    values = values.squeeze("layer", drop=True) if "layer" in values.dims else values
    values = values.drop_vars("layer", errors="ignore").drop_vars("unit", errors="ignore")
    values = values.rename(unit="net").set_index(net=["unit_layer", "unit_number"]).unstack("net")
    return values.rename(unit_layer="layer", unit_number="unit")


def _narrow(values: xr.Dataset, columns: int) -> tuple[xr.Dataset, int]:
    neighbors = -(-values.sizes["unit"] // columns)
    if neighbors == 1:
        return values, 1
    narrow = values.coarsen(unit=neighbors, boundary="pad").max()
    return narrow, neighbors


def _styled(
    figure: Any,
    values: xr.DataArray,
    look: Looks,
    ends: tuple[float, float],
    log: bool,
    *,
    veiled: bool,
) -> Any:
    layers = [look.name(layer, "layer") for layer in values["layer"].values.tolist()]
    every = -(-len(layers) // _MOST_TICKS)
    colors: dict[str, Any] = {
        "cmap": "viridis",
        "clim": ends,
        "cnorm": "log" if log else "linear",
        "colorbar": True,
        # What is in brackets would not fit beside a low map.
        "clabel": LABELS[str(values.name)].split(" (")[0],
        "clipping_colors": {"NaN": "white"},
    }
    axes: dict[str, Any] = {
        "invert_yaxis": True,
        "yticks": list(enumerate(layers))[::every],
        "xlabel": look.name("unit"),
        "ylabel": look.name("layer"),
    }
    height = 140 + 22 * max(6, min(len(layers), 24))
    # A browser leaves out units that are narrower than a pixel.
    pixels = {"height": height, "width": max(WIDTH, values.sizes["unit"] + _BESIDE)}
    size = {"fig_inches": (7.0, height / 100), "aspect": "auto"}
    hover = {"tools": ["hover"]}
    if not veiled:
        bokeh = {"Image": hover | pixels}
        return styled(figure, "Image", bokeh=bokeh, matplotlib={"Image": size}, **colors, **axes)
    veil = {"cmap": _VEIL, "clim": (0, 1), "clipping_colors": {"NaN": "white"}, "colorbar": False}
    return styled(
        figure,
        "Overlay",
        bokeh={"Image.Units": hover, "Overlay": pixels},
        matplotlib={"Image": {"aspect": "auto"}, "Overlay": {**size, "show_frame": True}},
        both={"Image": axes, "Image.Units": colors, "Image.Significant": veil},
        **axes,
    )
