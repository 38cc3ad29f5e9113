"""Statistics of results over many units, lazily."""

import json
from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.schema import InputError, choose

CORRECTIONS = ("fdr", "holm-sidak", None)
"""How p-values are corrected over units."""


def correct_p_values(result: xr.Dataset, *, method: str | None = "fdr") -> xr.Dataset:
    """Correct the p-values of each feature and cell for the number of units tested.

    With the p-values of n units sorted, p_1 <= ... <= p_n, the corrected ones are

        fdr (Benjamini-Hochberg)    min over j >= i of  p_j n / j
        holm-sidak                  max over j <= i of  1 - (1 - p_j)^(n - j + 1)

    Corrected p-values below q are significant with at most q expected false discoveries among all
    discoveries (`fdr`), or with a probability of at most q of any false one (`holm-sidak`).

    Parameters
    ----------
    result : xr.Dataset
        What `univariate_importance` returns, or any Dataset with `p_value` (..., unit, ...)
        floating; NumPy- or Dask-backed.
    method : {"fdr", "holm-sidak", None}
        The correction; None returns `result` as it is.

    Returns
    -------
    xr.Dataset
        `result` with `p_value` float64 corrected over `unit`, separately for each combination of
        the other dimensions, lazy if it was; units that are NaN stay so and do not count. The
        attribute `p_value_correction` holds the method, and so do the `settings`, if there are any.

    Raises
    ------
    InputError
        If the method is unknown, `p_value` or its dimension `unit` is missing, or the p-values
        have been corrected already.

    References
    ----------
    Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57, 289-300. Holm 1979, Scand. J. Stat. 6,
    65-70; Sidak 1967, J. Am. Stat. Assoc. 62, 626-633.

    Examples
    --------
    >>> scan = xr.Dataset({"p_value": ("unit", [0.01, 0.04, 0.5, np.nan])})
    >>> correct_p_values(scan).p_value.values.round(3).tolist()
    [0.03, 0.06, 0.5, nan]
    """
    choose("method", method, CORRECTIONS)
    check_units(result, ["p_value"], argument="result")
    if method is None:
        return result
    if "p_value_correction" in result.attrs:
        found = result.attrs["p_value_correction"]
        raise InputError(
            f"result: its p-values have been corrected already ({found}); expected uncorrected ones"
        )
    p_value = result["p_value"].variable
    whole = p_value if p_value.chunks is None else p_value.chunk(unit=-1)
    corrected = xr.apply_ufunc(
        _correct,
        whole,
        input_core_dims=[["unit"]],
        output_core_dims=[["unit"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        keep_attrs=True,
        kwargs={"method": method},
    )
    record = {"p_value_correction": method}
    attrs = dict(record)
    if "settings" in result.attrs:
        # Saved results are told apart by their settings.
        attrs["settings"] = json.dumps(json.loads(result.attrs["settings"]) | record)
    return result.assign(p_value=corrected.transpose(*p_value.dims)).assign_attrs(attrs)


def check_units(result: xr.Dataset, names: Iterable[str], *, argument: str) -> None:
    """Check that a result has the variables `names`, each with a dimension `unit`.

    Parameters
    ----------
    result : xr.Dataset
        What `univariate_importance` returns.
    names : iterable of str
        The variables needed.
    argument : str
        What the caller calls the result, for the error.

    Raises
    ------
    InputError
        If a variable is missing or is not over units.

    Examples
    --------
    >>> check_units(xr.Dataset({"r2": ("layer", [0.5])}), ["r2"], argument="univariate")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: univariate: 'r2' has no dimension 'unit'; found: layer
    """
    if not isinstance(result, xr.Dataset):
        raise InputError(f"{argument}: expected an xarray Dataset, found {type(result)}")
    for name in names:
        if name not in result.data_vars:
            found = ", ".join(map(repr, result.data_vars)) or "none"
            raise InputError(f"{argument}: no variable {name!r}; found: {found}")
        dims = result[name].dims
        if "unit" not in dims:
            found = ", ".join(map(str, dims)) or "none"
            raise InputError(f"{argument}: {name!r} has no dimension 'unit'; found: {found}")


def _correct(p_value: NDArray, *, method: str) -> NDArray:
    """Correct (..., unit) over the last axis, leaving NaN out."""
    adjust = _ADJUST[method]
    p_value = p_value.astype(np.float64)
    corrected = np.full(p_value.shape, np.nan)
    for where in np.ndindex(p_value.shape[:-1]):
        present = ~np.isnan(p_value[where])
        if present.any():
            corrected[where][present] = adjust(p_value[where][present])
    return corrected


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


_ADJUST: dict[str, Callable[[NDArray], NDArray]] = {
    "fdr": _benjamini_hochberg,
    "holm-sidak": _holm_sidak,
}
