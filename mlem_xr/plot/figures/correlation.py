"""Heat map of how the feature distances correlate."""

import holoviews as hv
import numpy as np
import xarray as xr

from mlem_xr.plot.frames import filled
from mlem_xr.plot.looks import Looks, Rename, looks
from mlem_xr.plot.style import styled
from mlem_xr.schema import InputError

_DARK = 0.6
"""Absolute correlation from which a cell is so dark that its number is written in white."""


def correlation(correlations: xr.DataArray, *, rename: Rename = None) -> hv.Overlay:
    """Draw a correlation matrix as a heat map with the values in its cells.

    Parameters
    ----------
    correlations : xr.DataArray
        What `mlem_xr.feature_correlation` returns: floating (feature, other_feature), between -1
        and 1, NaN where undefined (an empty cell with a dash).
    rename : dict, optional
        What to write in place of the names of features.

    Returns
    -------
    hv.Overlay
        The cells as `Rectangles` with `feature`, `other_feature` and `correlation`, and `Labels`
        with the numbers in them, for the bokeh and the matplotlib backend.

    Raises
    ------
    InputError
        If the dimensions are others, a value is outside [-1, 1] or all are NaN.

    Examples
    --------
    >>> matrix = xr.DataArray(
    ...     [[1.0, -0.2], [-0.2, 1.0]],
    ...     dims=("feature", "other_feature"),
    ...     coords={"feature": ["tense", "number"], "other_feature": ["tense", "number"]},
    ... )
    >>> correlation(matrix).Rectangles.I.dframe().correlation.tolist()
    [1.0, -0.2, -0.2, 1.0]
    """
    correlations = _checked(correlations)
    order = dict.fromkeys(name for dim in correlations.dims for name in correlations[dim].values)
    correlations = _renamed(correlations, looks(order, None, rename))
    table = correlations.rename("correlation").to_dataframe().reset_index()
    rows, columns = np.indices(correlations.shape).reshape(2, -1)
    table = table.assign(
        x=columns, y=rows, x0=columns - 0.5, y0=rows - 0.5, x1=columns + 0.5, y1=rows + 0.5
    )
    table["text"] = [_written(v) for v in table.correlation]
    dark = table.correlation.abs() >= _DARK
    figure = (
        hv.Rectangles(table, ["x0", "y0", "x1", "y1"], ["correlation", "feature", "other_feature"])
        * hv.Labels(table[~dark], ["x", "y"], "text", group="Light")
        * hv.Labels(table[dark], ["x", "y"], "text", group="Dark")
    )
    return _styled(figure, correlations)


def _written(value: float) -> str:
    """Return a correlation without the zero before its point, which takes room."""
    return f"{value:z.2f}".replace("0.", ".") if np.isfinite(value) else "–"


def _renamed(correlations: xr.DataArray, look: Looks) -> xr.DataArray:
    return correlations.assign_coords(
        {dim: [look.name(v) for v in correlations[dim].values] for dim in correlations.dims}
    )


def _checked(correlations: xr.DataArray) -> xr.DataArray:
    dims = ("feature", "other_feature")
    if not isinstance(correlations, xr.DataArray) or set(correlations.dims) != set(dims):
        found = getattr(correlations, "dims", type(correlations).__name__)
        raise InputError(
            f"correlations: expected a DataArray with dimensions {dims}, found {found}"
        )
    correlations = filled(correlations.transpose(*dims).compute(), argument="correlations")
    largest = float(np.abs(correlations).max())
    if largest > 1 + 1e-9:
        raise InputError(f"correlations: expected values in [-1, 1], found one of size {largest:g}")
    return correlations


def _styled(figure: hv.Overlay, correlations: xr.DataArray) -> hv.Overlay:
    rows, columns = correlations.shape
    colors = {
        "color": "correlation",
        "cmap": "RdBu_r",
        "clim": (-1, 1),
        "colorbar": True,
        "clipping_colors": {"NaN": "#dddddd"},
    }
    axes = {
        "invert_yaxis": True,
        "xrotation": 45,
        "xlabel": "",
        "ylabel": "",
        "xticks": _ticks(correlations.other_feature),
        "yticks": _ticks(correlations.feature),
        "xlim": (-0.5, columns - 0.5),
        "ylim": (-0.5, rows - 0.5),
    }
    hover = ["feature", "other_feature", "correlation"]
    return styled(
        figure,
        "Overlay",
        bokeh={
            "Rectangles": {"tools": ["hover"], "hover_tooltips": hover, "line_color": "white"},
            "Labels.Light": {"text_color": "black", "text_font_size": "9pt"},
            "Labels.Dark": {"text_color": "white", "text_font_size": "9pt"},
            "Overlay": {"width": 230 + 58 * columns, "height": 150 + 40 * rows},
        },
        matplotlib={
            "Rectangles": {"edgecolor": "white", "aspect": None},
            "Labels.Light": {"color": "black", "size": 8, "aspect": None},
            "Labels.Dark": {"color": "white", "size": 8, "aspect": None},
            "Overlay": {"fig_inches": (2.5 + 0.55 * columns, 1.5 + 0.4 * rows)},
        },
        both={"Rectangles": {**colors, **axes}},
        **axes,
    )


def _ticks(names: xr.DataArray) -> list[tuple[int, str]]:
    return list(enumerate(map(str, names.values.tolist())))
