"""Figures show by themselves as the last line of a notebook's cell, or as an image."""

from dataclasses import dataclass
from typing import Any

import holoviews as hv
from holoviews.core.dimension import LabelledData

from mlem_xr.plot.saving import Width, png
from mlem_xr.running.progress import in_notebook

_DPI = 150
_CSS_PIXELS = 96
"""Per inch, in a browser."""


def show_in_notebooks() -> None:
    """Load HoloViews' extension with the first figure, unless the user has done so by then.

    Its scripts, some megabytes, go into the output of that cell, so that figures show without a
    network; a notebook without such figures stays small. Selectors stand below the figure.
    """
    if not in_notebook():
        return
    from holoviews.ipython import notebook_extension

    if not notebook_extension._loaded:
        hv.Store.set_display_hook("html+js", LabelledData, _load_and_show)


def _load_and_show(figure: LabelledData) -> tuple[dict, dict]:
    hv.extension("bokeh", inline=True, logo=False)
    hv.output(widget_location="bottom")
    # The extension has put HoloViews' own hook in the place of this one.
    return hv.Store.render(figure)


@dataclass(frozen=True, repr=False)
class Image:
    """A figure as a `.png`, which a notebook shows as the last line of a cell."""

    png: bytes
    dpi: int

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # The header of a PNG has its width at byte 16. Finer screens show the finer picture.
        pixels = int.from_bytes(self.png[16:20], "big")
        return self.png, {"width": round(pixels * _CSS_PIXELS / self.dpi)}

    def __repr__(self) -> str:
        return f"<image of {len(self.png):,} bytes>"


def image(figure: Any, *, width: Width = None, dpi: int | None = None) -> Image:
    r"""Show a figure in a notebook as an image: what `save` writes into a `.png`.

    A notebook keeps it without scripts, in a few kilobytes, and shows it wherever it is read: on
    GitHub, on paper, without a network. Selectors become panels side by side.

    Parameters
    ----------
    figure : HoloViews object
        What the functions of `mlem_xr.plot` return.
    width, dpi : optional
        As for `save`; 150 dots per inch by default.

    Returns
    -------
    Image
        The last line of a cell shows it; `png` are its bytes.

    Raises
    ------
    InputError
        As for `save`.

    Examples
    --------
    >>> shown = image(hv.Curve([1, 2, 3]), width="column")
    >>> shown.png[:4]
    b'\x89PNG'
    """
    dpi = _DPI if dpi is None else dpi
    return Image(png(figure, width=width, dpi=dpi), dpi)
