"""Which units are significant, and by which p-values."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from mlem_xr.plot.frames import expanded, filled
from mlem_xr.schema import (
    InputError,
    check_dataset,
    leading_dims,
    listed,
    plain_value,
    shown,
)

_CORRECTIONS = {"fdr": "FDR", "holm-sidak": "Holm-Sidak"}

_FOLDS = {"sentences": "over sentences", "pairs": "over pairs as if independent"}

_MOST_NAMED = 10
"""Labels that an error names."""


class Significance(NamedTuple):
    """What is marked."""

    mask: xr.DataArray
    """Where the values of a figure are significant."""
    words: str
    """The p-values and their limit."""


def significance(given: Any, alpha: Any, values: xr.DataArray) -> Significance | None:
    """Return which values over units and features have a p-value below alpha, if any are given.

    P-values belong to the values with the same labels. Those that are family-wise go before others,
    unless a correction of the others was asked for.
    """
    level = plain_value(alpha)
    number = isinstance(level, Real) and not isinstance(level, bool)
    if not number or not 0 < level < 1:
        raise InputError(f"alpha: found {shown(alpha)}; expected a number between 0 and 1")
    if given is None:
        return None
    check_dataset("significant", given)
    if "feature" not in values.dims:
        raise InputError(
            "significant: its p-values are of features, and a score is not; "
            "expected show='importance' with it"
        )
    corrected = given.attrs.get("analysis") == "correct_p_values"
    names = ["p_value"] if corrected else ["p_value_max", "p_value"]
    name = next((name for name in names if name in given.data_vars), None)
    if name is None:
        found = listed(given.data_vars)
        raise InputError(f"significant: no variable {' or '.join(names)}; found: {found}")
    found = given[name].compute()
    if "unit" not in found.dims:
        raise InputError(
            f"significant: {name!r} has no dimension 'unit'; found: {found.dims}; expected the "
            "p-values of single units"
        )
    p_values = _at(filled(found, argument="significant"), values)
    if bool((p_values < 0).any()) or bool((p_values > 1).any()):
        raise InputError(f"significant: {name!r} holds values below 0 or above 1")
    lacking = p_values.isnull() & values.notnull()
    if bool(lacking.any()):
        first = np.argwhere(lacking.values)[0]
        labels = zip(lacking.dims, first, strict=True)
        where = ", ".join(f"{dim} {values[dim].values[i]}" for dim, i in labels)
        raise InputError(
            f"significant: {name!r} is NaN where there is a value to draw ({where}); expected a "
            "p-value for each, or fewer values"
        )
    return Significance(p_values < level, f"p < {float(level):g} {_words(given, name)}")


def _at(p_values: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    """Return the p-values at the labels of the values, all of which they must have."""
    leading = leading_dims({**values.coords, **p_values.coords, **values.sizes, **p_values.sizes})
    known = [*leading, "unit", "feature"]
    extra = [d for d in p_values.dims if d not in known]
    if extra:
        raise InputError(f"significant: it has the dimensions {listed(extra)}; select one of each")
    for dim in known:
        if dim not in values.dims and dim not in values.coords:
            if p_values.sizes.get(dim, 1) > 1:
                raise InputError(f"significant: it has the dimension {dim!r}; select one")
            continue
        wanted = _labels(values, dim)
        if dim not in p_values.dims and dim not in p_values.coords:
            if len(wanted) > 1:
                raise InputError(f"significant: no dimension {dim!r}, of which several are drawn")
            continue
        p_values = expanded(p_values, dim)
        places = {label: i for i, label in enumerate(_labels(p_values, dim))}
        missing = [label for label in wanted if label not in places]
        if missing:
            more = "" if len(missing) <= _MOST_NAMED else f" and {len(missing) - _MOST_NAMED} more"
            raise InputError(
                f"significant: no p-values for {dim} {listed(missing[:_MOST_NAMED])}{more}; "
                "expected those of all that is drawn"
            )
        p_values = p_values.isel({dim: [places[label] for label in wanted]})
    p_values = p_values.drop_vars(list(p_values.coords))
    p_values = p_values.squeeze([dim for dim in p_values.dims if dim not in values.dims])
    drawn = {dim: values[dim] for dim in p_values.dims if dim in values.coords}
    return p_values.assign_coords(drawn).broadcast_like(values).transpose(*values.dims)


def _labels(values: xr.DataArray, dim: str) -> list[Any]:
    """Return the labels along a dimension; a unit of concatenated layers is one of its layer."""
    if dim == "unit" and "unit_layer" in values.coords:
        parts = (values[name].values.tolist() for name in ("unit_layer", "unit_number"))
        return list(zip(*parts, strict=True))
    return values[dim].values.reshape(-1).tolist()


def _words(given: xr.Dataset, name: str) -> str:
    """Say what was done for p-values to hold of many units, and what they come from."""
    analysis, settings = given.attrs.get("analysis"), given.attrs.get("settings", {})
    if analysis == "correct_p_values":
        kind = _CORRECTIONS.get(settings.get("method"), "corrected")
        settings = settings.get("result", {})
        analysis = settings.get("analysis")
    elif name == "p_value_max":
        kind = "family-wise"
    else:
        kind = "uncorrected" if analysis else f"of {name}"
    if analysis == "randomization_test":
        return f"{kind} by randomization"
    return " ".join(filter(None, (kind, _FOLDS.get(settings.get("folds"), ""))))
