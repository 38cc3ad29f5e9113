"""P-values of many tests -> p-values corrected for their number."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.errors import Undefined


def correct(p_value: NDArray, options: Any) -> dict[str, NDArray]:
    """Correct the p-values of units, without NaN, by `options.method`, one of `METHODS`.

    Raises `Undefined` if a value is outside [0, 1].
    """
    if p_value.min() < 0 or p_value.max() > 1:
        raise Undefined("result: a p-value is below 0 or above 1")
    return {"p_value": METHODS[options.method](np.asarray(p_value, np.float64))}


def _benjamini_hochberg(p_value: NDArray) -> NDArray:
    # Importing scipy.stats takes longer than importing this package.
    from scipy.stats import false_discovery_control

    return false_discovery_control(p_value, method="bh")


def _holm_sidak(p_value: NDArray) -> NDArray:
    order = np.argsort(p_value)
    n_left = np.arange(len(p_value), 0, -1)
    with np.errstate(divide="ignore"):
        # 1 - (1 - p)^n in a form that keeps the digits of a tiny p; log1p(-1) is rightly -inf.
        step = -np.expm1(n_left * np.log1p(-p_value[order]))
    corrected = np.empty_like(step)
    corrected[order] = np.maximum.accumulate(step)
    return corrected


METHODS: dict[str, Callable[[NDArray], NDArray]] = {
    "fdr": _benjamini_hochberg,
    "holm-sidak": _holm_sidak,
}
"""Benjamini and Hochberg 1995; Holm 1979 and Sidak 1967."""
