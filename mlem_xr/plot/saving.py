"""Write a figure to a file: a page with sliders, or an image with the frames side by side."""

import itertools
import json
import math
import os
import re
from collections.abc import Callable
from io import BytesIO, StringIO
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import holoviews as hv
import matplotlib as mpl
import panel
from bokeh.resources import INLINE

from mlem_xr.plot.grid import MAX_PANELS, cells_of, drawn, values_of
from mlem_xr.running.writing import check_path, ending_of, whole
from mlem_xr.schema import InputError, check_integer, plain_value, shown

MAX_STATES = 1000
"""Most combinations of the sliders' values that a page holds."""

WIDTHS = {"column": 85.0, "page": 178.0}
"""Widths of the columns and pages of journals, in millimeters."""

_WIDTH_LIMITS = (30.0, 2000.0)

Width = Literal["column", "page"] | float | None
"""Of an image; a number is in millimeters."""

_DPI = {False: 200, True: 300}
"""Resolution of images: by default, and where they have a given width, for print."""

_RC: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path"}
"""Letters are part of the file: TrueType fonts in a .pdf, outlines in a .svg."""


def save(
    figure: Any,
    path: str | os.PathLike,
    *,
    width: Width = None,
    dpi: int | None = None,
) -> None:
    """Write a figure to a file; the extension says how.

    `.html` is a page that needs nothing but itself: bokeh, with sliders and selectors for the
    frames, of which it shows one with values first. `.png`, `.svg` and `.pdf` are images by
    matplotlib, on which several frames are panels of one grid; a frame without values says in its
    place why. The file appears whole or not at all; one that exists is replaced.

    Parameters
    ----------
    figure : HoloViews object
        What the functions of `mlem_xr.plot` return, with any `.opts` of HoloViews, or a layout of
        them (`a + b`).
    path : str or path
        Where to write; parents are made.
    width : {"column", "page"} or float, optional
        Width of an image in print: 85 mm, 178 mm, or so many millimeters. Text is 6.5 to 8 points
        then (unless `.opts(fontsize=...)` says otherwise), and lines and markers are in proportion.
        By default an image is as wide as its panels.
    dpi : int, optional
        Dots per inch of a `.png`: 200, or 300 where there is a width.

    Raises
    ------
    InputError
        If the figure is no HoloViews object or has more frames than the format can show, the
        extension is unknown, or `width` or `dpi` is not possible or given for a page.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(hv.Curve([1, 2, 3]), Path(folder) / "curve.png", width="column")
    ...     [file.name for file in Path(folder).iterdir()]
    ['curve.png']
    """
    _check_figure(figure)
    path = check_path(path, FORMATS)
    kind = ending_of(path, FORMATS)
    assert kind is not None
    if kind == ".html" and (width is not None or dpi is not None):
        raise InputError("width, dpi: a page has none; expected them for .png, .svg or .pdf")
    write = _WRITERS[kind]
    data = write(figure, path, _millimeters(width), _dots(dpi, width is not None))
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def png(figure: Any, *, width: Width, dpi: int) -> bytes:
    """Return what `save` writes into a `.png`."""
    _check_figure(figure)
    return _image(figure, Path("image.png"), _millimeters(width), _dots(dpi, width is not None))


def _check_figure(figure: Any) -> None:
    if not isinstance(figure, hv.core.Dimensioned):
        raise InputError(f"figure: expected a HoloViews object, found {type(figure).__name__}")


def _millimeters(width: Any) -> float | None:
    if width is None:
        return None
    given, (low, high) = plain_value(width), _WIDTH_LIMITS
    if isinstance(given, str) and given in WIDTHS:
        return WIDTHS[given]
    number = isinstance(given, Real) and not isinstance(given, bool)
    if not number or not low <= given <= high:
        raise InputError(
            f"width: found {shown(width)}; "
            f"expected 'column', 'page' or {low:g} to {high:g} millimeters"
        )
    return float(given)


def _dots(dpi: Any, printed: bool) -> int:
    if dpi is None:
        return _DPI[printed]
    return check_integer("dpi", dpi, at_least=20, below=2401)


def _page(figure: Any, path: Path, *_: Any) -> bytes:
    states = math.prod(map(len, values_of(figure)))
    if states > MAX_STATES:
        raise InputError(
            f"figure: its sliders have {states} combinations, a page holds at most {MAX_STATES}; "
            f"select fewer values of {_names(figure)}"
        )
    page = StringIO()
    panel.pane.HoloViews(_complete(figure), backend="bokeh", widget_location="top_left").save(
        page, title=path.stem, embed=True, max_states=MAX_STATES, resources=INLINE, progress=False
    )
    return _alone(page.getvalue()).encode()


_ICON = re.compile(r'<link rel="[^"]*icon"[^>]*>')
_STYLE = re.compile(
    r'"name":"ImportedStyleSheet","id":"(\w+)",'
    r'"attributes":\{"url":"https://cdn\.holoviz\.org/panel/[^/"]+/dist/([^"?]+)[^"]*"\}'
)


def _alone(page: str) -> str:
    """Put into the page what it would ask the network for: styles. Its icons are left out."""

    def inside(found: re.Match) -> str:
        style = (Path(panel.__file__).parent / "dist" / found[2]).read_text()
        # The page is a script: nothing in it may look like the end of one.
        css = json.dumps(style).replace("</", "<\\/")
        return f'"name":"InlineStyleSheet","id":"{found[1]}","attributes":{{"css":{css}}}'

    return _STYLE.sub(inside, _ICON.sub("", page))


def _complete(figure: Any) -> Any:
    """Return the figure with an empty frame where a combination of the sliders has none.

    Without one, the page would go on showing the frame before. Figures of ours have all of them.
    """
    known = set(figure.data) if isinstance(figure, hv.HoloMap) else {()}
    missing = [key for key in itertools.product(*values_of(figure)) if key not in known]
    if not missing:
        return figure
    empty = figure.last.map(lambda element: element.iloc[:0], [hv.Dataset]).relabel("no values")
    return figure.clone({**figure.data, **dict.fromkeys(missing, empty)})


def _image(figure: Any, path: Path, width: float | None, dpi: int) -> bytes:
    rows = cells_of(figure)
    n = sum(map(len, rows))
    if not 1 <= n <= MAX_PANELS:
        raise InputError(
            f"figure: {n} frames, an image shows 1 to {MAX_PANELS}; select fewer values "
            f"of {_names(figure)}, or save as .html"
        )
    image = BytesIO()
    # HoloViews switches pyplot's interactive mode off; the user's settings come back afterwards.
    with mpl.rc_context(_RC):
        made = drawn(rows, width=width)
        box: Any = {"bbox_inches": "tight"} if width is None else {}
        made.savefig(image, format=path.suffix[1:].lower(), dpi=dpi, **box)
    return image.getvalue()


_WRITERS: dict[str, Callable[[Any, Path, float | None, int], bytes]] = {
    ".png": _image,
    ".svg": _image,
    ".pdf": _image,
    ".html": _page,
}

FORMATS = tuple(_WRITERS)
"""Endings of the files that figures are saved in."""


def _names(figure: Any) -> str:
    dimensions = figure.kdims if isinstance(figure, hv.HoloMap) else []
    return " or ".join(repr(dimension.name) for dimension in dimensions) or "its coordinates"
