"""Means over seeds and how uncertain they are."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from mlem_xr.schema import InputError, plain_value, shown

FEW = 5
"""Up to so many seeds are drawn one by one: an interval over them says less than they do."""

LEVEL = 95.0
"""Coverage of an interval, in percent."""

Errorbar = str | tuple[str, float] | None
"""`"auto"`, `"ci"` or `("ci", 95)`, `"se"`, `"seeds"`, or None."""

_KINDS = ("auto", "ci", "se", "seeds")


class Summary(NamedTuple):
    """What is drawn of a result."""

    table: xr.Dataset
    """`mean`, and `lower` and `upper` ends of its interval, NaN without one."""
    seeds: xr.DataArray | None
    """The values of every seed, if they are drawn."""
    note: str
    """What the title says of it."""
    over_seeds: bool
    """Whether the intervals are over seeds: bands, where those of one seed are bars."""


def parsed(errorbar: Any) -> tuple[str | None, float]:
    """Return the kind of error bars and the level of an interval."""
    pair = isinstance(errorbar, tuple) and len(errorbar) == 2
    kind, level = map(plain_value, errorbar if pair else (errorbar, LEVEL))
    known = kind is None or (isinstance(kind, str) and kind in _KINDS)
    number = isinstance(level, int | float) and not isinstance(level, bool)
    if not known or (pair and kind != "ci") or not number or not 0 < level < 100:
        raise InputError(
            f"errorbar: found {shown(errorbar)}; expected 'auto', 'ci', 'se', 'seeds', None, or "
            "'ci' with a level in percent, as in ('ci', 95)"
        )
    return kind, float(level)


def summarized(
    values: xr.DataArray, std_error: xr.DataArray | None = None, errorbar: Errorbar = "auto"
) -> Summary:
    """Return the means over the seeds that hold a value, and their errors.

    An interval over n seeds is Student's t with n - 1 degrees of freedom; that of a single seed is
    the normal one of its standard error, and the note says what that is over. By default one over
    pairs is not drawn: pairs are not independent, so it says less than it seems to.
    """
    kind, level = parsed(errorbar)
    n_seeds = values.sizes.get("seed", 1)
    if n_seeds < 2:
        mean, error = (
            v.squeeze("seed") if v is not None and "seed" in v.dims else v
            for v in (values, std_error)
        )
        assert mean is not None
        over = "" if error is None else _over(error)
        if kind == "auto":
            kind = None if over.startswith("pairs") else "ci"
        if error is None or kind not in ("ci", "se") or not bool(error.notnull().any()):
            return Summary(_bounds(mean, xr.full_like(mean, np.nan)), None, "", False)
        half = error if kind == "se" else stats.norm.ppf(0.5 + level / 200) * error
        basis = f" over {over}" if over else f" of {error.name}"
        return Summary(_bounds(mean, half), None, _note(kind, level) + basis, False)
    count = values.count("seed")
    mean = values.mean("seed")
    if kind == "auto":
        kind = "seeds" if n_seeds <= FEW else "ci"
    said = f"{n_seeds} seeds"
    if kind in ("seeds", None):
        seeds = values if kind == "seeds" else None
        words = "mean and every seed" if kind == "seeds" else "mean"
        table = _bounds(mean, xr.full_like(mean, np.nan))
        return Summary(table, seeds, f"{said} ({words})", True)
    half = values.where(count > 1, 0.0).std("seed", ddof=1) / np.sqrt(count.where(count > 1))
    if kind == "ci":
        quantile = stats.t.ppf(0.5 + level / 200, np.maximum(count - 1, 1))
        half = half * quantile
    return Summary(_bounds(mean, half), None, f"{said} (mean, {_note(kind, level)})", True)


def _over(error: xr.DataArray) -> str:
    """Return what standard errors are over, as their own description says."""
    return str(error.attrs.get("long_name", "")).partition(" over ")[2]


def _bounds(mean: xr.DataArray, half: xr.DataArray) -> xr.Dataset:
    return xr.Dataset({"mean": mean, "lower": mean - half, "upper": mean + half})


def _note(kind: str | None, level: float) -> str:
    return "± standard error" if kind == "se" else f"{level:g} % interval"
