"""P-values corrected for the number of units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output, Source, check_result
from mlem_xr.analyses.options import Options, option
from mlem_xr.kernels.corrections import METHODS, correct
from mlem_xr.schema import InputError, choose

Correction = Literal["fdr", "holm-sidak", None]
"""How p-values are corrected over units; None: not at all."""


@dataclass(frozen=True, kw_only=True)
class CorrectionOptions(Options):
    """The options of a correction."""

    method: Literal["fdr", "holm-sidak"] = option("fdr", "The correction.")


def _arrays(result: xr.Dataset, options: CorrectionOptions) -> Mapping[str, xr.DataArray]:
    check_result(result, {"p_value": ["unit"]}, argument="result")
    if result.attrs.get("analysis") == CORRECTION.name:
        method = result.attrs["settings"]["method"]
        raise InputError(
            f"result: its p-values have been corrected already ({method}); "
            "expected uncorrected ones"
        )
    return {"p_value": result["p_value"]}


CORRECTION = Analysis(
    name="correct_p_values",
    help="Correct the p-values of a scan of units for their number.",
    command="correct-p-values",
    function=correct,
    inputs={"p_value": ("unit",)},
    outputs=lambda options: {"p_value": Output(("unit",), "corrected p-value")},
    options=CorrectionOptions,
    source=Source("result", _arrays, "univariate_importance", kept=True),
    original="Univariate",
)


def correct_p_values(result: xr.Dataset, *, method: Correction = "fdr") -> xr.Dataset:
    """Correct the p-values of each feature and representation for the number of units tested.

    With the p-values of n units sorted, p_1 <= ... <= p_n, the corrected ones are ::

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
        the other dimensions, lazy if it was; units that are NaN stay so and do not count. Its
        `settings` are the method and, under `result`, those of `result`.

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
    >>> import numpy as np
    >>> scan = xr.Dataset({"p_value": ("unit", [0.01, 0.04, 0.5, np.nan])})
    >>> correct_p_values(scan).p_value.values.round(3).tolist()
    [0.03, 0.06, 0.5, nan]
    """
    method = choose("method", method, [*METHODS, None])
    if method is None:
        check_result(result, {"p_value": ["unit"]}, argument="result")
        return result
    return CORRECTION(None, CorrectionOptions(method=method), source=result)
