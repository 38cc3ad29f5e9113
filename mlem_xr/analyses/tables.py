"""Results as tidy pandas tables."""

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.analyses.layers import UNIT_LABELS
from mlem_xr.schema import (
    FINAL,
    FINAL_STEP,
    REPRESENTATION,
    InputError,
    check_dataset,
    choose,
    leading_dims,
)

_ORIGINAL_LABELS = {"feature": "Feature", "pooling": "take_activation_from"}
"""Our labels to the columns of the original program's CSV files, where they differ."""


def to_dataframe(result: xr.Dataset, *, names: str = "mlem_xr") -> pd.DataFrame:
    """Turn a result into a tidy table: one row per representation and unit, feature or sentence.

    Lazy results are computed. What was not recorded or computed has no row. The units that
    `top_unit_importance` chose are left out: they are in `result.chosen`. So is the R2 of subsets,
    beside what is over features: ``to_dataframe(result[["r2"]])`` has a row for each subset.

    Parameters
    ----------
    result : xr.Dataset
        What an analysis returned.
    names : {"mlem_xr", "original"}
        `original`: the columns of the original program's CSV files (Feature, importance, std,
        pval, score_R2, ..., layer, seed, step, Method), so that old notebooks keep working.

    Returns
    -------
    pd.DataFrame
        Columns for the labels of the dimensions, and for the layer that a unit comes from where
        layers were concatenated; then the variables, with a column per fold or bound where they
        have these, such as `alpha_fold0` and `r2_ceiling_lower`. Steps are words where one of them
        is "final".

    Raises
    ------
    InputError
        If `names` is unknown.

    Examples
    --------
    >>> result = xr.Dataset({"r2": ("layer", [0.5, np.nan])}, coords={"layer": [1, 2]})
    >>> to_dataframe(result)
       layer   r2
    0      1  0.5
    """
    names = choose("names", names, ("mlem_xr", "original"))
    check_dataset("result", result)
    if not result.data_vars:
        raise InputError("result: no variables; expected what an analysis returned")
    kept = [name for name, variable in result.data_vars.items() if variable.dtype != bool]
    if any("feature" in result[name].dims for name in kept):
        kept = [name for name in kept if "subset" not in result[name].dims]
    flat = _spread(_spread(result[kept].compute(), "fold", "fold"), "bound", "")
    scalars = _scalars(flat)
    labels = [*scalars, *(str(dim) for dim in _dimensions(flat))]
    if "unit" in labels:
        after = labels.index("unit") + 1
        labels[after:after] = [name for name in UNIT_LABELS if name in flat.coords]
    plain = flat.drop_vars([name for name in flat.coords if name not in labels])
    table = _recorded(plain).reset_index()
    table = table.dropna(subset=list(plain.data_vars), how="all").reset_index(drop=True)
    table = table[[*labels, *plain.data_vars]]
    if names == "original":
        return _with_original_names(table, result)
    if "step" in table and (table["step"] == FINAL_STEP).any():
        table["step"] = table["step"].astype(str).replace(str(FINAL_STEP), FINAL)
    return table


def _scalars(data: xr.Dataset) -> list[str]:
    """Name the labels of dimensions of which one label was selected."""
    single = [name for name, label in data.coords.items() if not label.ndim]
    # Those of a single sentence are its features.
    return leading_dims(n for n in single if n in REPRESENTATION or "sentence" not in single)


def _recorded(data: xr.Dataset) -> pd.DataFrame:
    """Turn into a table only the representations that hold something: most may hold nothing."""
    dims = leading_dims(data.dims)
    if not dims:
        return data.to_dataframe(dim_order=_dimensions(data))
    # A name that no dimension has.
    row = f"each of {', '.join(dims)}"
    stacked = data.stack({row: dims})
    holds = [v.notnull().any(set(v.dims) - {row}) for v in stacked.values()]
    stacked = stacked.isel({row: np.logical_or.reduce(holds)})
    order = [row, *(dim for dim in _dimensions(data) if dim not in dims)]
    return stacked.to_dataframe(dim_order=order).drop(columns=dims, errors="ignore")


def _dimensions(data: xr.Dataset) -> list[str]:
    """List the dimensions in the order of the columns, from the model to the feature."""
    last = ("unit", "k", "sentence", "axis", "feature")
    known = [*leading_dims(data.dims), *(dim for dim in last if dim in data.dims)]
    return known + [str(dim) for dim in data.dims if dim not in known]


def _spread(result: xr.Dataset, dim: str, word: str) -> xr.Dataset:
    """Make a variable for each label of a dimension; a label that stands alone is no dimension."""
    if dim not in result.dims:
        return result
    columns = {}
    for name, variable in result.data_vars.items():
        if dim not in variable.dims:
            columns[name] = variable
        else:
            for i, label in enumerate(result[dim].values.tolist()):
                columns[f"{name}_{word}{label}"] = variable.isel({dim: i}, drop=True)
    return xr.Dataset(columns)


def _with_original_names(table: pd.DataFrame, result: xr.Dataset) -> pd.DataFrame:
    # The registry imports every analysis, of which some write tables.
    from mlem_xr.analyses import ANALYSES

    name = result.attrs.get("analysis", "")
    analysis = ANALYSES.get(name)
    renamed = {}
    if analysis is not None:
        outputs = analysis.outputs(analysis.options_of(result.attrs["settings"]))
        renamed = {k: output.original for k, output in outputs.items() if output.original}
    table = table.rename(columns=_ORIGINAL_LABELS | renamed)
    if "step" in table:
        # The original counts MultiBERTs steps in thousands; a final network has none.
        table["step"] = np.where(table["step"] < 0, np.nan, table["step"] / 1000)
    return table.assign(Method=name if analysis is None else analysis.original or name)
