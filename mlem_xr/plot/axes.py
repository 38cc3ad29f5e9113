"""Where values lie on an axis: layers, training steps, numbers of units, importances."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlem_xr.plot.looks import Looks
from mlem_xr.schema import FINAL_STEP

MOST_TICKS = 14
"""Most ticks of an axis that can be read."""

_DECADES = 6
"""Most decades that a logarithmic axis shows: below lies what rounding leaves of a zero."""


@dataclass(frozen=True)
class Axis:
    """The places of labels on an axis."""

    places: NDArray
    names: list[str]
    limits: tuple[float, float]
    log: bool = False
    most: int = MOST_TICKS
    keep: list[int] = field(default_factory=list)
    """Labels that have a tick in any case."""

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and names, few enough to read."""
        scaled = np.log(self.places) if self.log else self.places.astype(float)
        gap = (scaled.max() - scaled.min()) / self.most if scaled.size > 1 else 0.0
        shown: list[int] = list(self.keep)
        for i in range(scaled.size):
            if all(abs(scaled[i] - scaled[j]) >= gap * 0.999 for j in shown):
                shown.append(i)
        return [(self.places[i].item(), self.names[i]) for i in sorted(shown)]


def axis_of(labels: NDArray, dim: str, looks: Looks) -> Axis:
    """Return the axis of a dimension: `k` and `step` are logarithmic."""
    names = [looks.name(label, dim) for label in labels.tolist()]
    if dim == "step":
        return _steps(labels, names)
    integers = np.issubdtype(labels.dtype, np.integer)
    places = labels if integers else np.arange(labels.size)
    low, high = float(places.min()), float(places.max())
    if dim == "k" and low > 0:
        return Axis(
            places, names, (low / 1.2, high * 1.2), log=True, most=10, keep=[labels.size - 1]
        )
    margin = 0.2 + 0.02 * (high - low)
    every = -(-labels.size // MOST_TICKS)
    return Axis(places, names, (low - margin, high + margin), most=max(1, labels.size // every))


def _steps(labels: NDArray, names: list[str]) -> Axis:
    """Place training steps by their logarithm: step 0 before the first one, the final one last."""
    positive = labels[labels > 0].astype(float)
    if not positive.size:
        places = np.where(labels == FINAL_STEP, 10.0, 1.0)
        return Axis(places, names, (0.5, 20.0), log=True)
    low, high = positive.min(), positive.max()
    gap = max(2.0, (high / low) ** 0.1)
    places = np.where(labels == 0, low / gap, np.where(labels == FINAL_STEP, high * gap, labels))
    ends = [int(i) for i in np.flatnonzero(labels <= 0)]
    margin = (places.max() / places.min()) ** 0.03 * 1.05
    limits = (float(places.min() / margin), float(places.max() * margin))
    return Axis(places.astype(float), names, limits, log=True, most=9, keep=ends)


def in_order_of_steps(labels: NDArray) -> list[int]:
    """Return the order in which steps were taken: the final one, which has no number, is last."""
    return sorted(range(labels.size), key=lambda i: (labels[i] == FINAL_STEP, labels[i]))


def log_limits(values: NDArray, highest: float | None = None) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that shows the positive values."""
    highest = float(np.nanmax(values)) if highest is None else highest
    lowest = max(float(values[values > 0].min()), highest / 10**_DECADES)
    return lowest / 1.6, highest * 1.5


def foot_of(limits: tuple[float, float]) -> float:
    """Return the place at the foot of a logarithmic axis where a mark can be seen."""
    return limits[0] * (limits[1] / limits[0]) ** 0.02


def log_ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Return few ticks of a logarithmic axis, with plain numbers where these are short."""
    low, high = np.log10(limits)
    steps = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    every = -(-len(powers) // 7)
    values = [s * 10.0**p for p in powers if p % every == 0 for s in steps]
    return [
        (v, f"{v:.0e}".replace("e-0", "e-") if v < 1e-3 else f"{v:g}")
        for v in values
        if limits[0] <= v <= limits[1]
    ]


def linear_ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Return few round ticks of a linear axis."""
    values = MaxNLocator(5).tick_values(*limits)
    return [(float(v), f"{v:g}") for v in np.round(values, 12) if limits[0] <= v <= limits[1]]


def linear_limits(lowest: float, highest: float) -> tuple[float, float]:
    """Return the ends of a linear axis, with a margin."""
    margin = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    return lowest - margin, highest + margin
