"""Where values lie on an axis."""

import numpy as np
import pytest

from mlem_xr.plot.axes import axis_of, log_ticks
from mlem_xr.plot.looks import Looks
from mlem_xr.schema import FINAL_STEP

LABELS = [
    ("layer", [1]),
    ("layer", range(1, 13)),
    ("layer", ["first", "last"]),
    ("k", [1]),
    ("k", [1, 10, 1000]),
    ("step", [0]),
    ("step", [0, FINAL_STEP]),
    ("step", [1000]),
    ("step", [1000, 2000]),
    ("step", [0, 1, 1000, 143_000, FINAL_STEP]),
    ("step", [20_000, 2_000_000, FINAL_STEP]),
]


@pytest.mark.parametrize(("dim", "labels"), LABELS)
def test_an_axis_holds_all_its_places_and_little_else(dim, labels):
    axis = axis_of(np.array(labels), dim, Looks(()))
    assert axis.log == (dim != "layer")
    scale = np.log if axis.log else np.asarray
    places, (low, high) = scale(axis.places), scale(axis.limits)
    margins = np.array([places.min() - low, high - places.max()])
    assert (margins > 0).all()
    least = {"layer": 0.5, "k": 0.2, "step": 3}[dim]  # A place that is alone has room, too.
    assert (margins <= max(least, 0.15 * np.ptp(places))).all()


@pytest.mark.parametrize("limits", [(0.011, 0.9), (2e-4, 3.0), (1e-9, 40.0)])
def test_ticks_of_a_logarithmic_axis_are_round_and_on_it(limits):
    ticks = log_ticks(limits)
    assert 2 <= len(ticks) <= 12
    for value, name in ticks:
        assert limits[0] <= value <= limits[1]
        assert float(name) == pytest.approx(value)
        assert ("e" in name) == (value < 1e-3)
