"""What figures of a scan of units have in common."""

import xarray as xr

from mlem_xr.plot.frames import variable
from mlem_xr.schema import InputError


def over_units(univariate: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable of a scan, which has a value per unit."""
    values = variable(univariate, name, argument="univariate")
    if "unit" not in values.dims:
        raise InputError(f"univariate: {name!r} has no dimension 'unit'; found: {values.dims}")
    return values
