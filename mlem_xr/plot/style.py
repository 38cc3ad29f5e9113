"""How figures look in both backends: sizes, fonts, and the options of the elements.

Importing this module registers both plotting backends with HoloViews; it selects none that the
user has already selected, and leaves matplotlib's own backend alone.
"""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import holoviews.plotting.mpl  # noqa: F401
from matplotlib.ticker import NullLocator

from mlem_xr.plot.looks import Looks

Options = dict[str, dict[str, Any]]
"""Options of elements: type -> option -> value."""

BACKENDS = ("bokeh", "matplotlib")

WIDTH, HEIGHT = 760, 420
"""Size of a figure in pixels (bokeh)."""

INCHES = (7.0, 4.2)
"""Size of a figure in inches (matplotlib)."""

POINTS_SIZE = {"labels": 11, "ticks": 10, "title": 11, "legend": 10, "legend_title": 10}
"""Sizes of text, in points."""

LABELS = {
    "importance": "importance (increase of squared error)",
    "r2": "R² on held-out pairs",
    "r": "Pearson correlation on held-out pairs",
    "mse": "mean squared error on held-out pairs",
    "mae": "mean absolute error on held-out pairs",
}
"""Axis labels of what can be drawn."""

_PIXELS_PER_LETTER = 8.7
"""Of a bold title."""

TITLE = "{label}\n{dimensions}"
"""Without the group, which is there for the options alone."""

_FRAMES: Options = {
    "bokeh": {"width": WIDTH, "height": HEIGHT, "fontsize": POINTS_SIZE, "title": TITLE},
    "matplotlib": {
        "fig_inches": INCHES,
        "aspect": None,
        "fontsize": POINTS_SIZE,
        "title": TITLE,
    },
}

# Without an aspect of its own every element would make the axes square. The overlay alone sets the
# ticks: those of a logarithmic axis cannot be set by a part that holds only NaN.
_MATPLOTLIB_AXES = {"aspect": None, "apply_ticks": False}
_GRID = {"show_grid": True, "gridstyle": {"color": "#e4e4e4", "linewidth": 0.6, "zorder": -1}}


def styled(
    figure: Any,
    outermost: str,
    *,
    bokeh: Options | None = None,
    matplotlib: Options | None = None,
    both: Options | None = None,
    **frame: Any,
) -> Any:
    """Give a figure its options in both backends, and return it.

    The figure is changed in place: copying every element of every frame would take most of the
    time. Frames, whose type is `outermost`, get the usual size and fonts, and the options in
    `frame`. The other options are type -> option -> value; those of one backend go before those of
    both.
    """
    for backend, own in (("bokeh", bokeh), ("matplotlib", matplotlib)):
        usual: Options = {outermost: {**_FRAMES[backend], **frame}}
        if backend == "bokeh":
            # Else overlays without a legend would be drawn as one element, which not all can.
            usual = merged({"NdOverlay": {"batched": False}, "Overlay": {"batched": False}}, usual)
        options = merged(usual, both or {}, own or {})
        frame_options = options[outermost]
        usual_hook = _wrap_title if backend == "bokeh" else _lower_grid
        options[outermost] = frame_options | {
            "hooks": [usual_hook, *frame_options.get("hooks", [])]
        }
        figure.opts(options, backend=backend)
    return figure


def merged(*parts: Options) -> Options:
    """Merge options of elements; later ones go before earlier ones."""
    options: Options = {}
    for part in parts:
        for element, values in part.items():
            options[element] = options.get(element, {}) | values
    return options


def _wrap_title(plot: Any, _: Any) -> None:
    """Break a title that is longer than the figure is wide; bokeh would cut it."""
    title, width = plot.state.title, plot.state.width or WIDTH
    if title is not None and title.text:
        lines = title.text.split("\n")
        # Beside it are the numbers of the axis and the tools.
        characters = max(20, int((width - 170) / _PIXELS_PER_LETTER))
        title.text = "\n".join(fill(line, characters) for line in lines)


def _lower_grid(plot: Any, _: Any) -> None:
    """Draw matplotlib's grid below everything: it has the place of its axis among the lines."""
    for axis in (plot.handles["axis"].xaxis, plot.handles["axis"].yaxis):
        axis.set_zorder(-1)


def plain_ticks(plot: Any, _: Any) -> None:
    """Leave no ticks on matplotlib's horizontal axis but those that were asked for."""
    plot.handles["axis"].xaxis.set_minor_locator(NullLocator())


def line_options(looks: Looks, labels: Iterable[Any], backend: str) -> Options:
    """Return the options of lines with errors, one look per label, for overlays in their order."""
    labels = list(labels)
    color = looks.cycle("color", labels)
    dash, marker = (looks.cycle(what, labels, backend) for what in ("dash", "marker"))
    quiet = {"show_legend": False}
    if backend == "bokeh":
        return {
            "Curve": {"color": color, "show_grid": True},
            "Curve.Lines": {"line_dash": dash, "line_width": 2},
            "Curve.Seeds": {"line_width": 0.8, "alpha": 0.5, **quiet},
            "Curve.Second": {"line_width": 1.2, "line_dash": "dashed", "alpha": 0.8, **quiet},
            "Scatter": {"color": color, "marker": marker, "size": 7, "tools": ["hover"]},
            "Scatter.Foot": {
                "marker": "inverted_triangle",
                "fill_color": "white",
                "size": 8,
                **quiet,
            },
            "Scatter.Second": {"size": 4, "alpha": 0.8, **quiet},
            "Spread": {"color": color, "fill_alpha": 0.2, "line_alpha": 0, **quiet},
            # Without caps: where the end of the axis cuts a bar, a cap would seem its own end.
            "ErrorBars": {
                "color": color,
                "line_width": 1.5,
                "lower_head": None,
                "upper_head": None,
                **quiet,
            },
        }
    return {
        "Curve": {**_MATPLOTLIB_AXES, **_GRID, "color": color},
        # The curve draws the markers itself, so that the legend shows line and marker together.
        "Curve.Lines": {"linestyle": dash, "marker": marker, "ms": 5, "linewidth": 1.5},
        "Curve.Seeds": {"linewidth": 0.6, "alpha": 0.5, **quiet},
        "Curve.Second": {"linewidth": 1.0, "linestyle": "--", "alpha": 0.8, **quiet},
        "Scatter": {**_MATPLOTLIB_AXES, **quiet},
        "Scatter.Points": {"visible": False},
        "Scatter.Second": {"visible": False},
        "Scatter.Foot": {
            "marker": "v",
            "facecolors": "white",
            "edgecolors": color,
            "s": 30,
            "linewidth": 1.2,
        },
        "Spread": {
            **_MATPLOTLIB_AXES,
            **_GRID,
            "facecolor": color,
            "alpha": 0.2,
            "linewidth": 0,
            **quiet,
        },
        "ErrorBars": {**_MATPLOTLIB_AXES, **_GRID, "edgecolor": color, "elinewidth": 1.5, **quiet},
        "NdOverlay": {"apply_ticks": False},
    }


def dot_options(looks: Looks, labels: Iterable[Any], backend: str) -> Options:
    """Return the options of dots with errors in rows, one look per label."""
    labels = list(labels)
    color, marker = looks.cycle("color", labels), looks.cycle("marker", labels, backend)
    quiet = {"show_legend": False}
    if backend == "bokeh":
        return {
            "Points": {"color": color, "show_grid": True, **quiet},
            "Points.Points": {"marker": marker, "size": 10, "tools": ["hover"]},
            "Points.Seeds": {"marker": "circle", "size": 4, "alpha": 0.6},
            "Points.Foot": {
                "marker": "inverted_triangle",
                "fill_color": "white",
                "size": 10,
                "tools": ["hover"],
            },
            "Segments": {"color": color, "line_width": 2, **quiet},
        }
    return {
        "Points": {**_MATPLOTLIB_AXES, **_GRID, "color": color, **quiet},
        "Points.Points": {"marker": marker, "s": 45},
        "Points.Seeds": {"marker": "o", "s": 9, "alpha": 0.6},
        "Points.Foot": {
            "marker": "v",
            "facecolors": "white",
            "edgecolors": color,
            "s": 45,
            "linewidth": 1.2,
        },
        "Segments": {**_MATPLOTLIB_AXES, "color": color, "linewidth": 2, **quiet},
        "NdOverlay": {"apply_ticks": False},
    }


def overlay_of(drawings: dict[Any, hv.Element], by: str) -> hv.NdOverlay:
    """Return one element per label, all of a group that has options of its own."""
    group = next(iter(drawings.values())).group
    return hv.NdOverlay(drawings, by, sort=False, group=group)
