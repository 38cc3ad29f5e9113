"""How figures look, in both backends: colors, markers, dashes, fonts and the options of both.

Importing this module registers both plotting backends with HoloViews; it selects none that the
user has already selected, and leaves matplotlib's own backend alone.
"""

from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import holoviews.plotting.mpl  # noqa: F401

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette for color-blind readers, without its yellow, too pale for lines."""

# As many as are coprime to the number of colors: 7 x 8 lines differ before a look repeats.
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star")
_MATPLOTLIB_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

DASHES = ("solid", "dashed", "dotdash", "dotted")
_MATPLOTLIB_DASHES = ("-", "--", "-.", ":")

WIDTH, HEIGHT = 800, 420
"""Size of a figure in pixels (bokeh)."""

INCHES = (8.0, 4.6)
"""Size of a figure in inches (matplotlib)."""

_FONTS = {"labels": 11, "ticks": 10, "title": 11, "legend": 10, "legend_title": 10}

_COLOR = hv.Cycle(list(COLORS))
_BOKEH_FRAME = {"width": WIDTH, "height": HEIGHT, "fontsize": _FONTS}
_MATPLOTLIB_FRAME = {"fig_inches": INCHES, "aspect": None, "fontsize": _FONTS}

LINES_BOKEH = {
    "Curve": {
        "color": _COLOR,
        "line_dash": hv.Cycle(list(DASHES)),
        "line_width": 2,
        "show_grid": True,
    },
    "Scatter": {
        "color": _COLOR,
        "marker": hv.Cycle(list(MARKERS)),
        "size": 8,
        "tools": ["hover"],
    },
    "Spread": {"color": _COLOR, "fill_alpha": 0.2, "line_alpha": 0},
    # Without caps: where the end of the axis cuts a bar, a cap would seem to be its own end.
    "ErrorBars": {"color": _COLOR, "line_width": 2, "lower_head": None, "upper_head": None},
}
"""Lines with markers and bands, one look per line (bokeh)."""

# Without an aspect of its own every element would make the axes square. The overlay alone sets the
# ticks: those of a logarithmic axis cannot be set by a part that holds only NaN.
_MATPLOTLIB_AXES = {
    "aspect": None,
    "apply_ticks": False,
    "show_grid": True,
    "gridstyle": {"color": "#e0e0e0", "linewidth": 0.6, "zorder": -1},
}

LINES_MATPLOTLIB = {
    "Curve": {
        **_MATPLOTLIB_AXES,
        "color": _COLOR,
        "linestyle": hv.Cycle(list(_MATPLOTLIB_DASHES)),
        "marker": hv.Cycle(list(_MATPLOTLIB_MARKERS)),
        "ms": 5,
        "linewidth": 1.5,
    },
    # The curve draws the markers itself here, so that the legend shows line and marker together.
    "Scatter": {**_MATPLOTLIB_AXES, "visible": False, "show_legend": False},
    "Spread": {
        **_MATPLOTLIB_AXES,
        "facecolor": _COLOR,
        "alpha": 0.2,
        "linewidth": 0,
        "show_legend": False,
    },
    "ErrorBars": {
        **_MATPLOTLIB_AXES,
        "edgecolor": _COLOR,
        "elinewidth": 2,
        "show_legend": False,
    },
    "NdOverlay": {"apply_ticks": False},
}
"""Lines with markers and bands, one look per line (matplotlib)."""


POINTS_BOKEH = {
    "color": _COLOR,
    "marker": hv.Cycle(list(MARKERS)),
    "size": 6,
    "alpha": 0.7,
    "tools": ["hover"],
    "data_aspect": 1,
}
"""Points, one look per group (bokeh)."""

POINTS_MATPLOTLIB = {
    "color": _COLOR,
    "marker": hv.Cycle(list(_MATPLOTLIB_MARKERS)),
    "s": 18,
    "alpha": 0.7,
}
"""Points, one look per group (matplotlib)."""


def styled(
    figure: Any,
    outermost: str,
    *,
    bokeh: dict[str, dict] | None = None,
    matplotlib: dict[str, dict] | None = None,
    both: dict[str, dict] | None = None,
    **frame: Any,
) -> Any:
    """Give a figure its options in both backends, and return it.

    The figure is changed in place: copying every element of every frame would take most of the
    time. Frames, whose type is `outermost`, get the usual size and fonts, and the options in
    `frame`. The other options are type -> option -> value; those of one backend go before those of
    both.
    """
    for backend, usual, own in (
        ("bokeh", _BOKEH_FRAME, bokeh),
        ("matplotlib", _MATPLOTLIB_FRAME, matplotlib),
    ):
        options: dict[str, dict] = {}
        for part in ({outermost: {**usual, **frame}}, both or {}, own or {}):
            for element, values in part.items():
                options[element] = options.get(element, {}) | values
        figure.opts(options, backend=backend)
    return figure
