"""Frames side by side on an image: every frame in its place, at any width.

A figure is a table of cells. The last slider has the columns and the others have the rows; an empty
frame keeps its cell and says in it why it is empty.
"""

import itertools
import math
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import holoviews as hv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, NullLocator

from mlem_xr.plot.frames import EMPTY
from mlem_xr.plot.style import POINTS_SIZE, TITLE

MAX_PANELS = 24
"""Most frames that an image shows side by side."""

_SCALES = {1: 1.0, 2: 0.8}
_SMALLEST_SCALE = 0.65
"""Size of a panel relative to that of a figure of its own, by the number of panels."""

_PRINTED_SIZE = 8.0
"""Size of labels in points, in a figure of a given width; ticks and legends are in proportion."""

_SMALLEST_SIZE = 6.5
_WIDEST_LEGEND = 0.3
"""Share of a given width that a legend beside the panels may have; a wider one is below them."""

_LEAST_HEIGHT = 1.8
"""Of a panel, in inches."""

_MILLIMETERS = 25.4


@dataclass(frozen=True)
class Cell:
    """One frame and what tells it from the others."""

    title: str
    content: Any
    """None where there is nothing."""

    @property
    def parts(self) -> list[str]:
        """What the title of the frame says."""
        parts = [] if self.content is None else self.content.label.split(", ")
        return parts[:-1] if self.reason else parts

    @property
    def reason(self) -> str:
        """Why it is empty, if it is."""
        if self.content is None:
            return "no values"
        return self.content.label.split(", ")[-1] if self.content.group == EMPTY else ""


def cells_of(figure: Any) -> list[list[Cell]]:
    """Return the cells of a figure in rows, some at the end of the last row possibly missing."""
    if isinstance(figure, hv.HoloMap):
        return _of_frames(figure)
    if isinstance(figure, hv.Layout | hv.NdLayout):
        parts = [list(itertools.chain(*cells_of(part))) for part in figure]
        if len(parts) > 1 and len(parts[0]) > 1 and len({len(part) for part in parts}) == 1:
            # The same frames of several figures: a row for each.
            return [list(row) for row in zip(*parts, strict=True)]
        cells = list(itertools.chain(*parts))
        asked = getattr(figure, "_max_cols", len(cells))
        return _in_rows(cells, min(asked, _columns(len(cells))))
    return [[Cell("", figure)]]


def values_of(figure: Any) -> list[list]:
    """Return the values of every slider."""
    keys = list(figure.data) if isinstance(figure, hv.HoloMap) else [()]
    return [list(dict.fromkeys(values)) for values in zip(*keys, strict=True)]


def _of_frames(figure: hv.HoloMap) -> list[list[Cell]]:
    values = values_of(figure)
    cells = []
    for key in itertools.product(*values):
        words = (d.pprint_value_string(v) for d, v in zip(figure.kdims, key, strict=True))
        cells.append(Cell(", ".join(words), figure.data.get(key)))
    return _in_rows(cells, len(values[-1]) if len(values) > 1 else _columns(len(cells)))


def _columns(n: int) -> int:
    return n if n <= 3 else math.ceil(math.sqrt(n))


def _in_rows(cells: list[Cell], columns: int) -> list[list[Cell]]:
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def drawn(rows: list[list[Cell]], *, width: float | None = None) -> Figure:
    """Draw the cells with matplotlib.

    Parameters
    ----------
    rows : list of list of Cell
        What lies side by side, from top to bottom.
    width : float, optional
        Width of the image in millimeters; by default as wide as its panels.

    Returns
    -------
    matplotlib.figure.Figure
        A figure that pyplot does not know: no window, no change of the user's current figure.
    """
    n_rows, n_columns = len(rows), max(map(len, rows))
    figure = Figure(layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    cells = list(itertools.chain(*rows))
    used = list(axes.flat[: len(cells)])
    for axis in axes.flat[len(cells) :]:
        axis.remove()
    full = [(axis, cell) for axis, cell in zip(used, cells, strict=True) if not cell.reason]
    plots = [_draw(figure, axis, cell.content) for axis, cell in full]
    for axis, cell in zip(used, cells, strict=True):
        if cell.reason:
            _leave_empty(axis, full[0][0], cell.reason)
    panel = np.max([plot.fig_inches * np.ones(2) for plot in plots], axis=0)
    entries = _shared_legend(plots)
    fonts = 1.0
    if width is None:
        panel = panel * _SCALES.get(len(cells), _SMALLEST_SCALE)
    else:
        fonts = _printed(figure, cells)
        inches = width / _MILLIMETERS / n_columns
        panel = np.array([inches, inches * panel[1] / panel[0]])
        panel[1] = max(panel[1], min(_LEAST_HEIGHT, inches), _rows_of_text(used))
    figure.set_size_inches(n_columns * panel[0], n_rows * panel[1])
    _labels(figure, used, (n_rows, n_columns))
    _titles(figure, used, cells)
    bars = [axis for axis in figure.axes if axis not in used]
    for bar in bars[:-1]:
        # One scale of colors for all: its name stands once.
        if bar.get_ylabel() == bars[-1].get_ylabel():
            bar.yaxis.label.set_text("")
    if entries:
        _legend(figure, used, entries, cells, fonts, exact=width is not None)
    _fit(figure, used, (n_rows, n_columns), exact=width is not None)
    return figure


def _draw(figure: Figure, axis: Axes, content: Any) -> Any:
    renderer = hv.Store.renderers["matplotlib"].instance(dpi=100)
    plot = renderer.get_plot(content, fig=figure, axis=axis)
    # HoloViews places a color bar by numbers, which the layout of a grid makes stale.
    for part in plot.traverse(lambda p: p, [lambda p: "cax" in p.handles]):
        bar = part.handles["cax"]
        label, size = bar.get_ylabel(), bar.yaxis.label.get_fontsize()
        bar.remove()
        made = figure.colorbar(part.handles["artist"], ax=axis)
        made.set_label(label, size=size)
    if axis.get_aspect() != "auto":
        # Equal units widen the view, rather than shrink the box away from its neighbors.
        axis.set_adjustable("datalim")
        axis.set_autoscale_on(True)
    return plot


def _leave_empty(axis: Axes, like: Axes, reason: str) -> None:
    """Give a cell without values the axes of one with values, and say why it is empty."""
    for own, other in ((axis.xaxis, like.xaxis), (axis.yaxis, like.yaxis)):
        getattr(axis, f"set_{other.axis_name}scale")(other.get_scale())
        own.label.set_text(other.label.get_text())
        own.label.set_fontsize(other.label.get_fontsize())
        if isinstance(other.get_major_locator(), FixedLocator):
            names = [label.get_text() for label in other.get_ticklabels()]
            own.set_ticks(other.get_majorticklocs(), names)
            own.set_minor_locator(NullLocator())
        own.set_tick_params(labelsize=POINTS_SIZE["ticks"])
    axis.set_xlim(like.get_xlim())
    axis.set_ylim(like.get_ylim())
    axis.title.set_fontsize(like.title.get_fontsize())
    for side in ("top", "right"):
        axis.spines[side].set_visible(like.spines[side].get_visible())
    axis.text(
        *(0.5, 0.5, reason),
        transform=axis.transAxes,
        ha="center",
        va="center",
        color="#666666",
        fontsize=POINTS_SIZE["ticks"],
    )


def _printed(figure: Figure, cells: list[Cell]) -> float:
    """Bring text and lines to the sizes of print; return by how much text was scaled."""
    scale = _PRINTED_SIZE / POINTS_SIZE["labels"]
    contents = [cell.content for cell in cells if cell.content is not None]
    asked = hv.Store.lookup_options("matplotlib", contents[0], "plot").kwargs.get("fontsize")
    # A size that the user asked for stays.
    fonts = scale if asked in (None, POINTS_SIZE) else 1.0
    for text in figure.findobj(Text):
        text.set_fontsize(max(_SMALLEST_SIZE, float(text.get_fontsize()) * fonts))
    for axis in figure.axes:
        for ticks in (axis.xaxis, axis.yaxis):
            labels = ticks.get_ticklabels()
            size = labels[0].get_fontsize() if labels else _PRINTED_SIZE
            ticks.set_tick_params(labelsize=max(_SMALLEST_SIZE, min(size, _PRINTED_SIZE)))
            for label in labels:
                label.set_fontsize(max(_SMALLEST_SIZE, min(size, _PRINTED_SIZE)))
        for line in axis.lines:
            line.set_linewidth(line.get_linewidth() * scale)
            line.set_markersize(line.get_markersize() * scale)
        for part in axis.collections:
            _thinner(part, scale)
    return fonts


def _thinner(part: Any, scale: float) -> None:
    part.set_linewidth(np.asarray(part.get_linewidth()) * scale)
    if hasattr(part, "set_sizes") and len(part.get_sizes()):
        part.set_sizes(np.asarray(part.get_sizes()) * scale**2)


def _rows_of_text(axes: list[Axes]) -> float:
    """Return the height in inches that the names along a vertical axis take."""
    names = [
        len(axis.get_yticks())
        for axis in axes
        if any(c.isalpha() for label in axis.get_yticklabels() for c in label.get_text())
    ]
    return 0.7 + max(names, default=0) * 1.3 * _PRINTED_SIZE / 72


def _titles(figure: Figure, axes: list[Axes], cells: list[Cell]) -> None:
    """Write above each panel what tells it from the others, and once what they have in common."""
    described = [cell.parts for cell in cells if cell.content is not None]
    common = [part for part in described[0] if all(part in parts for parts in described)]
    common = common if len(cells) > 1 else []
    for axis, cell in zip(axes, cells, strict=True):
        own = [part for part in cell.parts if part not in common]
        if not _has_own_title(cell.content):
            axis.title.set_text(", ".join(filter(None, [cell.title, *own])))
    if common:
        figure.suptitle(", ".join(common), fontsize=axes[0].title.get_fontsize())


def _has_own_title(content: Any) -> bool:
    """Whether the user gave the figure a title, which stays."""
    options = hv.Store.lookup_options("matplotlib", content, "plot").kwargs if content else {}
    return options.get("title", TITLE) != TITLE


def _labels(figure: Figure, axes: list[Axes], shape: tuple[int, int]) -> None:
    """Write the axes' labels once, beside the grid, where all panels have the same."""
    if len(axes) == 1:
        return
    for name, write in (("xlabel", figure.supxlabel), ("ylabel", figure.supylabel)):
        texts = [axis.xaxis.label if name == "xlabel" else axis.yaxis.label for axis in axes]
        labels = {text.get_text() for text in texts if text.get_text()}
        if len(labels) == 1:
            size = texts[0].get_fontsize()
            for text in texts:
                text.set_text("")
            write(labels.pop(), fontsize=size)
    # Where the same axis goes through a row or a column, its numbers stand once.
    rows, columns = shape
    if columns > 1 and len({axis.get_ylim() for axis in axes}) == 1:
        for i, axis in enumerate(axes):
            if i % columns and _same_ticks(axis, axes[i - i % columns]):
                axis.tick_params(axis="y", labelleft=False)


def _same_ticks(axis: Axes, other: Axes) -> bool:
    return np.array_equal(axis.get_yticks(), other.get_yticks()) and axis.get_aspect() == "auto"


def _shared_legend(plots: list) -> dict:
    """Return the entries of the legend, if all panels have the same."""
    found = [
        {label: handle for handle, label in plot.handles.get("legend_data", {}).items()}
        for plot in plots
    ]
    shared = found and found[0] and all(list(other) == list(found[0]) for other in found)
    return found[0] if shared else {}


def _legend(
    figure: Figure,
    axes: list[Axes],
    entries: dict,
    cells: list[Cell],
    scale: float,
    *,
    exact: bool,
) -> None:
    """Replace the legends of the panels by one beside or below them."""
    title = ""
    for legend in filter(None, (axis.get_legend() for axis in axes)):
        title = legend.get_title().get_text() or title
        legend.remove()
    if title in ("", "None"):
        content = next(cell.content for cell in cells if cell.content is not None)
        names = content.traverse(lambda o: o.kdims[0].label, [hv.NdOverlay])
        title = names[0] if names else ""
    size = max(_SMALLEST_SIZE, POINTS_SIZE["legend"] * scale)
    width, height = figure.get_size_inches() * 72
    longest = max(map(len, entries)) * 0.56 * size + 4.5 * size
    lines = len(entries) + 2
    options: dict[str, Any] = {
        "title": title,
        "fontsize": size,
        "title_fontsize": size,
        "handlelength": 3,
    }
    columns = math.ceil(lines * 1.4 * size / height)
    if exact and columns * longest > _WIDEST_LEGEND * width:
        columns = max(1, min(len(entries), int(0.97 * width / longest)))
        needed = (math.ceil(len(entries) / columns) + 2) * 1.35 * size
        figure.set_size_inches(width / 72, (height + needed) / 72)
        options |= {"loc": "outside lower center", "columnspacing": 1.0}
    else:
        if not exact:
            figure.set_size_inches((width + columns * longest) / 72, height / 72)
        options |= {"loc": "outside right upper"}
    figure.legend(list(entries.values()), list(entries), ncols=columns, **options)


def _fit(figure: Any, axes: list[Axes], shape: tuple[int, int], *, exact: bool) -> None:
    """Break titles and labels that are too long, thin ticks, and keep all inside the figure."""
    rows, columns = shape
    _lay_out(figure)
    width, height = figure.bbox.width, figure.bbox.height
    texts: list[tuple[Text, float]] = []
    for axis in axes:
        box = axis.get_window_extent()
        texts.append((axis.title, min(box.width * 1.03, width / columns)))
        high = 0.9 * height / rows
        texts += [(axis.xaxis.label, box.width), (axis.yaxis.label, high)]
        texts += [(child.yaxis.label, high) for child in axis.child_axes]
        texts += [(part, box.width) for part in axis.texts if part.get_text()]
    bars = [axis for axis in figure.axes if axis not in axes]
    texts += [(bar.yaxis.label, 0.9 * height / rows) for bar in bars]
    if figure._suptitle is not None:
        # Above the panels; a legend beside them begins at the top of the figure.
        right = _start_of_legend(figure, axes)
        figure._suptitle.set_x(right / 2 / width)
        texts.append((figure._suptitle, right))
    for label, length in ((figure._supxlabel, width), (figure._supylabel, height)):
        if label is not None:
            texts.append((label, 0.9 * length))
    if any([_broken(text, 0.97 * length) for text, length in texts]):
        _lay_out(figure)
    for axis in axes:
        _thin(axis)
    if exact:
        _inside(figure)


def _lay_out(figure: Any) -> None:
    """Give everything its place, as drawing does first."""
    figure.get_layout_engine().execute(figure)


def _start_of_legend(figure: Any, axes: list[Axes]) -> float:
    """Return where a legend beside the panels begins, in pixels: else where the figure ends."""
    edge = max(axis.get_window_extent().x1 for axis in axes)
    starts = [legend.get_window_extent().x0 for legend in figure.legends]
    return min((x for x in starts if x >= edge), default=figure.bbox.width)


def _broken(text: Text, length: float) -> bool:
    """Break a text into lines of at most this length, in pixels; return whether it changed."""
    before = text.get_text()
    whole = " ".join(before.split())
    if not whole:
        return False

    def extent() -> float:
        box = text.get_window_extent()
        return box.height if text.get_rotation() == 90 else box.width

    text.set_text(whole)
    size = extent()
    characters = len(whole)
    while size > length and characters > 8:
        characters = min(characters - 1, int(characters * length / size))
        text.set_text(fill(whole, max(characters, 8), break_long_words=False))
        size = extent()
    return text.get_text() != before


def _thin(axis: Axes) -> None:
    """Leave out ticks until no two names along the horizontal axis touch."""
    locator = axis.xaxis.get_major_locator()
    if not isinstance(locator, FixedLocator):
        return
    labels = [label for label in axis.get_xticklabels() if label.get_text()]
    if any(label.get_rotation() for label in labels):
        return
    boxes = [label.get_window_extent() for label in labels]
    gap = 0.4 * float(labels[0].get_fontsize() if labels else 0)
    # The last one first: a final step has a name in any case.
    order = [0, len(labels) - 1, *range(1, len(labels) - 1)] if len(labels) > 1 else []
    shown: list[int] = []
    for i in order:
        clear = all(
            boxes[i].x0 > boxes[j].x1 + gap or boxes[i].x1 < boxes[j].x0 - gap for j in shown
        )
        if clear:
            shown.append(i)
    if 0 < len(shown) < len(labels):
        ticks = axis.get_xticks()
        named = [
            (t, label.get_text()) for t, label in zip(ticks, axis.get_xticklabels(), strict=True)
        ]
        axis.set_xticks(ticks, [name if i in shown else "" for i, (_, name) in enumerate(named)])


def _inside(figure: Figure) -> None:
    """Move the panels until nothing reaches over the edge."""
    engine: Any = figure.get_layout_engine()
    left, right = 0.0, 1.0
    for _ in range(4):
        _lay_out(figure)
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        sideways = (-box.x0 / width, box.x1 / width - 1)
        upright = max(0.0, -box.y0) + max(0.0, box.y1 - height)
        if max(*sideways, upright / height) < 0.002:
            return
        # The width is given; the height is not.
        figure.set_size_inches(width, height + 1.1 * upright)
        left, right = left + max(0.0, sideways[0]), right - max(0.0, sideways[1])
        engine.set(rect=(left, 0.0, max(0.2, right - left), 1.0))
