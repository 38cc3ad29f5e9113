"""Figures show by themselves as the last line of a notebook's cell."""

import sys

import holoviews as hv


def show_in_notebooks() -> None:
    """Load HoloViews' extension into a notebook, unless the user has done so.

    Its scripts go into the output of the cell, so that figures show without a network. Selectors
    stand below the figure.
    """
    if "ipykernel" not in sys.modules:
        return
    from holoviews.ipython import notebook_extension

    if notebook_extension._loaded:
        return
    hv.extension("bokeh", inline=True, logo=False)
    hv.output(widget_location="bottom")
