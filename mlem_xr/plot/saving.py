"""Write a figure to a file: a page with sliders, or an image with the frames side by side."""

import itertools
import math
import os
import re
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from textwrap import fill
from typing import Any

import holoviews as hv
import matplotlib as mpl
import numpy as np
import panel
from bokeh.resources import INLINE
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlem_xr.running.writing import check_path, whole
from mlem_xr.schema import InputError

MAX_PANELS = 12
"""Most frames that an image shows side by side."""

MAX_STATES = 1000
"""Most combinations of the sliders' values that a page holds."""

_DPI = 200

_TITLE_WIDTH = 56
"""Characters of a title that fit above the axes of a figure of the usual size."""

_LABEL_WIDTH = 38
"""Characters of a label that fit beside one row of panels."""

_SCALES = {1: 1.0, 2: 0.8}
_SMALLEST_SCALE = 0.65
"""Size of a panel relative to that of a figure of its own, by the number of panels."""


def save(figure: Any, path: str | os.PathLike) -> None:
    """Write a figure to a file; the extension says how.

    `.html` is a page that needs nothing but itself: bokeh, with sliders and selectors for the
    frames. `.png`, `.svg` and `.pdf` are images by matplotlib, on which several frames are panels
    of one grid. The file appears whole or not at all; one that exists is replaced.

    Parameters
    ----------
    figure : HoloViews object
        What the functions of `mlem_xr.plot` return, or a layout of them (`a + b`).
    path : str or path
        Where to write; parents are made.

    Raises
    ------
    InputError
        If the figure is no HoloViews object or has more frames than the format can show, or the
        extension is unknown.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(hv.Curve([1, 2, 3]), Path(folder) / "curve.png")
    ...     [file.name for file in Path(folder).iterdir()]
    ['curve.png']
    """
    if not isinstance(figure, hv.core.Dimensioned):
        raise InputError(f"figure: expected a HoloViews object, found {type(figure).__name__}")
    path = check_path(path, FORMATS)
    write = _WRITERS[path.suffix.lower()]
    data = write(figure, path)
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def _page(figure: Any, path: Path) -> bytes:
    states = math.prod(map(len, _values(figure)))
    if states > MAX_STATES:
        raise InputError(
            f"figure: its sliders have {states} combinations, a page holds at most {MAX_STATES}; "
            f"select fewer values of {_names(figure)}"
        )
    page = StringIO()
    panel.pane.HoloViews(_complete(figure), backend="bokeh", widget_location="top_left").save(
        page, title=path.stem, embed=True, max_states=MAX_STATES, resources=INLINE, progress=False
    )
    # The page's icons are the only thing that it would ask the network for.
    return re.sub(r'<link rel="[^"]*icon"[^>]*>', "", page.getvalue()).encode()


def _complete(figure: Any) -> Any:
    """Return the figure with an empty frame where a combination of the sliders has none.

    Without one, the page would go on showing the frame before.
    """
    known = set(_keys(figure))
    missing = [key for key in itertools.product(*_values(figure)) if key not in known]
    if not missing:
        return figure
    empty = figure.last.map(lambda element: element.iloc[:0], [hv.Dataset]).relabel("no data")
    return figure.clone({**figure.data, **dict.fromkeys(missing, empty)})


def _image(figure: Any, path: Path) -> bytes:
    panels = _panels(figure)
    if not 1 <= len(panels) <= MAX_PANELS:
        raise InputError(
            f"figure: {len(panels)} frames, an image shows 1 to {MAX_PANELS}; select fewer values "
            f"of {_names(figure)}, or save as .html"
        )
    image = BytesIO()
    # HoloViews switches pyplot's interactive mode off; the user's settings come back afterwards.
    with mpl.rc_context({"pdf.fonttype": 42}):
        _grid(panels, _columns(figure, len(panels))).savefig(
            image, format=path.suffix[1:].lower(), dpi=_DPI, bbox_inches="tight"
        )
    return image.getvalue()


_WRITERS: dict[str, Callable[[Any, Path], bytes]] = {
    ".png": _image,
    ".svg": _image,
    ".pdf": _image,
    ".html": _page,
}

FORMATS = tuple(_WRITERS)
"""Endings of the files that figures are saved in."""


def _keys(figure: Any) -> list[tuple]:
    return list(figure.data) if isinstance(figure, hv.HoloMap) else [()]


def _values(figure: Any) -> list[list]:
    """Return the values of every slider."""
    return [list(dict.fromkeys(values)) for values in zip(*_keys(figure), strict=True)]


def _names(figure: Any) -> str:
    dimensions = figure.kdims if isinstance(figure, hv.HoloMap) else []
    return " or ".join(repr(str(dimension)) for dimension in dimensions) or "its coordinates"


def _panels(figure: Any) -> list[tuple[str, Any]]:
    """Return title and drawing of everything that a figure shows one after or beside another."""
    if isinstance(figure, hv.HoloMap):
        return [
            (", ".join(d.pprint_value_string(v) for d, v in zip(figure.kdims, key, strict=True)), f)
            for key, f in figure.data.items()
        ]
    if isinstance(figure, hv.Layout | hv.NdLayout):
        return [drawing for part in figure for drawing in _panels(part)]
    return [("", figure)]


def _columns(figure: Any, n_panels: int) -> int:
    """Return the columns of the grid: the last slider's values if they fit, else nearly square."""
    values = _values(figure)
    if len(values) > 1 and len(values[-1]) <= 4 and n_panels % len(values[-1]) == 0:
        return len(values[-1])
    return n_panels if n_panels <= 3 else math.ceil(math.sqrt(n_panels))


def _grid(panels: list[tuple[str, Any]], columns: int) -> Figure:
    rows = -(-len(panels) // columns)
    # A figure that pyplot does not know: no window, no change of the user's current figure.
    figure = Figure(layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    plots = [
        _draw(figure, axis, content) for axis, (_, content) in zip(axes.flat, panels, strict=False)
    ]
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    _titles(axes, panels)
    _legend(figure, plots, panels)
    scale = _SCALES.get(len(panels), _SMALLEST_SCALE)
    # Elements without a width and height of their own give one number for both.
    width, height = np.max([plot.fig_inches * np.ones(2) for plot in plots], axis=0)
    figure.set_size_inches(columns * width * scale, rows * height * scale)
    return figure


def _titles(axes: np.ndarray, panels: list[tuple[str, Any]]) -> None:
    """Write above each panel what tells it from the others, and once what they have in common."""
    described = [content.label.split(", ") for _, content in panels]
    common = [part for part in described[0] if all(part in parts for parts in described)]
    common = common if len(panels) > 1 else []
    for axis, (title, _), parts in zip(axes.flat, panels, described, strict=False):
        own = [part for part in parts if part not in common]
        axis.set_title(fill(", ".join(filter(None, [title, *own])), _TITLE_WIDTH))
    axes[0, 0].figure.suptitle(fill(", ".join(common), _TITLE_WIDTH * axes.shape[1]))
    if len(panels) > 1:
        _labels(axes)


def _labels(axes: np.ndarray) -> None:
    """Write the axes' labels once, beside the grid, where all panels have the same."""
    figure, (rows, columns) = axes[0, 0].figure, axes.shape
    for name, write, width in (
        ("xlabel", figure.supxlabel, _LABEL_WIDTH * columns),
        ("ylabel", figure.supylabel, _LABEL_WIDTH * rows),
    ):
        present = [axis for axis in axes.flat if axis in figure.axes]
        labels = [axis.properties()[name] for axis in present]
        shared = len(set(labels)) == 1
        if shared:
            write(fill(labels[0], width))
        for axis, label in zip(present, labels, strict=True):
            axis.set(**{name: "" if shared else fill(label, _LABEL_WIDTH)})


def _draw(figure: Figure, axis: Axes, content: Any) -> Any:
    renderer = hv.Store.renderers["matplotlib"].instance(dpi=_DPI)
    plot = renderer.get_plot(content, fig=figure, axis=axis)
    # HoloViews places a color bar by numbers, which the layout of a grid makes stale.
    for part in plot.traverse(lambda p: p, [lambda p: "cax" in p.handles]):
        label = part.handles["cax"].get_ylabel()
        part.handles["cax"].remove()
        figure.colorbar(part.handles["artist"], ax=axis, label=label)
    if axis.get_aspect() != "auto":
        # Equal units widen the view, rather than shrink the box away from its neighbors.
        axis.set_adjustable("datalim")
        axis.set_autoscale_on(True)
    return plot


def _legend(figure: Figure, plots: list, panels: list[tuple[str, Any]]) -> None:
    """Replace the legends of panels that share theirs by one beside them."""
    entries = [plot.handles.get("legend_data", {}) for plot in plots]
    labels = [list(entry.values()) for entry in entries]
    if not labels[0] or any(other != labels[0] for other in labels):
        return
    for legend in filter(None, (axis.get_legend() for axis in figure.axes)):
        legend.remove()
    title = next(iter(panels[0][1].traverse(lambda o: o.kdims[0].label, [hv.NdOverlay])), "")
    figure.legend(
        list(entries[0]), labels[0], title=title, loc="outside right upper", handlelength=3
    )
