"""The stimulus table as a Dataset: one coordinate per feature, with levels and a hash."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.schema import MIN_SENTENCES, RESERVED, InputError, check_features, warn


def from_dataframe(table: pd.DataFrame, *, name: str) -> xr.Dataset:
    """Turn a table with a `sentence` column into a Dataset of stimuli.

    Parameters
    ----------
    table : pd.DataFrame
        A column `sentence` and one column per feature, of booleans, numbers or strings; missing
        values are undefined.
    name : str
        Name of the stimulus set, kept in the attributes.

    Returns
    -------
    xr.Dataset
        Dimension `sentence`; coordinates `sentence` (int64), `text` (object) and one per feature
        (bool, int64, float64, or object where there are strings or undefined booleans; undefined
        values are missing as xarray and pandas mean it: None or NaN, found by `isnull`);
        attributes `stimuli`, `features` (names in order) and `stimuli_hash`.

    Raises
    ------
    InputError
        If there is no `sentence` column, no feature, fewer than four sentences, an empty sentence,
        or a column that the library cannot use.

    Warns
    -----
    UserWarning
        If sentences are repeated.

    Examples
    --------
    >>> table = pd.DataFrame({"sentence": list("abcd"), "tense": ["past", "pres", None, "pres"]})
    >>> stimuli = from_dataframe(table, name="letters")
    >>> stimuli.attrs["features"], stimuli.tense.isnull().values.tolist()
    (['tense'], [False, False, True, False])
    """
    features = [str(column) for column in table.columns if column != "sentence"]
    _check_table(table, features)
    coordinates = {"text": ("sentence", table["sentence"].astype(object).to_numpy())}
    for feature in features:
        coordinates[feature] = ("sentence", _plain_values(table[feature]))
    stimuli = xr.Dataset(coords={"sentence": np.arange(len(table)), **coordinates})
    stimuli.attrs = {"stimuli": name, "features": features}
    stimuli.attrs["stimuli_hash"] = stimuli_hash(stimuli)
    return stimuli


def to_dataframe(stimuli: xr.Dataset) -> pd.DataFrame:
    """Turn stimuli back into the table they were read from.

    Parameters
    ----------
    stimuli : xr.Dataset
        As `from_dataframe` returns it.

    Returns
    -------
    pd.DataFrame
        Column `sentence`, then the features in order.

    Examples
    --------
    >>> table = pd.DataFrame({"sentence": list("abcd"), "long": [True, False, True, True]})
    >>> to_dataframe(from_dataframe(table, name="letters")).equals(table)
    True
    """
    columns = {feature: stimuli[feature].values for feature in check_features(stimuli)}
    return pd.DataFrame({"sentence": stimuli["text"].values, **columns})


def to_codes(values: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Encode a feature as positions in the list of its levels.

    Parameters
    ----------
    values : ndarray (sentence)
        Booleans, numbers or strings; None and NaN are undefined.

    Returns
    -------
    codes : ndarray of int32 (sentence)
        Position of each value in `levels`; -1 where undefined.
    levels : list
        The distinct values as plain Python objects, in order of first appearance.

    Examples
    --------
    >>> to_codes(np.array(["sg", None, "pl", "sg"], dtype=object))
    (array([ 0, -1,  1,  0], dtype=int32), ['sg', 'pl'])
    """
    codes, levels = pd.factorize(np.asarray(values), use_na_sentinel=True)
    return codes.astype(np.int32), [_item(level) for level in levels]


def from_codes(codes: np.ndarray, levels: Sequence[Any], dtype: str) -> np.ndarray:
    """Undo `to_codes`.

    Parameters
    ----------
    codes : ndarray of int (sentence)
        Positions in `levels`; -1 where undefined.
    levels : sequence
        The distinct values.
    dtype : str
        NumPy dtype of the values: bool, int64, float64 or object.

    Returns
    -------
    ndarray of `dtype` (sentence)
        The values; None (NaN for float64) where undefined.

    Examples
    --------
    >>> from_codes(np.array([0, -1]), ["sg"], "object")
    array(['sg', None], dtype=object)
    """
    undefined = [np.nan] if dtype == "float64" else [None]
    lookup = np.empty(len(levels) + 1, dtype=object)
    lookup[:] = [*levels, *undefined]
    return lookup[np.asarray(codes)].astype(dtype)


def stimuli_hash(stimuli: xr.Dataset) -> str:
    """Hash sentences and features, so that results can name the stimuli they belong to.

    Parameters
    ----------
    stimuli : xr.Dataset
        Anything with coordinates `text` and the features over `sentence`.

    Returns
    -------
    str
        32 hexadecimal digits, the same for equal sentences and features in the same order.

    Examples
    --------
    >>> table = pd.DataFrame({"sentence": list("abcd"), "odd": [1, 0, 1, 0]})
    >>> len(stimuli_hash(from_dataframe(table, name="letters")))
    32
    """
    columns: dict[str, list[Any]] = {"sentence": stimuli["text"].values.tolist()}
    for feature in stimuli.attrs["features"]:
        if feature not in stimuli.coords:
            continue
        codes, levels = to_codes(stimuli[feature].values)
        columns[feature] = [levels, codes.tolist()]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:32]


def stimuli_attributes(data: xr.Dataset) -> dict[str, Any]:
    """Say which stimuli a Dataset holds now, if it holds their text, and which store they are from.

    Parameters
    ----------
    data : xr.Dataset
        Activations; a selection of their sentences has another hash than the store.

    Returns
    -------
    dict
        `stimuli`, `stimuli_hash` and the number of units, `n_units`, and `store`, if they come
        from one; empty without a coordinate `text`.
    """
    if "text" not in data.coords or "stimuli" not in data.attrs:
        return {}
    found = {"stimuli": data.attrs["stimuli"], "stimuli_hash": stimuli_hash(data)}
    if "unit" in data.dims:
        found["n_units"] = data.sizes["unit"]
    return found | ({"store": data.attrs["store"]} if "store" in data.attrs else {})


def _check_table(table: pd.DataFrame, features: list[str]) -> None:
    columns = list(map(str, table.columns))
    if "sentence" not in columns:
        raise InputError(f"stimuli: no column 'sentence'; found: {', '.join(columns) or 'none'}")
    if not features:
        raise InputError("stimuli: no features; expected at least one column beside 'sentence'")
    if len(set(columns)) < len(columns):
        raise InputError(f"stimuli: some columns are named twice: {', '.join(columns)}")
    reserved = RESERVED.intersection(features)
    if reserved:
        raise InputError(
            f"stimuli: mlem_xr itself uses the name of column {sorted(reserved)[0]!r}; rename it"
        )
    # In a store, a feature is an array of that name.
    unusable = [
        name
        for name in features
        if name in ("", "zarr.json") or "/" in name or name.startswith((".", "__"))
    ]
    if unusable:
        raise InputError(
            f"stimuli: column {unusable[0]!r}; expected a name without '/' that starts with "
            "neither '.' nor '__'; rename it"
        )
    if len(table) < MIN_SENTENCES:
        raise InputError(f"stimuli: {len(table)} sentences; expected at least {MIN_SENTENCES}")
    text = table["sentence"]
    empty = text.isna() | (text.astype(str).str.strip() == "")
    if empty.any():
        raise InputError(f"stimuli: the sentence in row {int(np.argmax(empty)) + 1} is empty")
    repeated = int(text.duplicated().sum())
    if repeated:
        example = text[text.duplicated()].iloc[0]
        warn(f"stimuli: {repeated} sentences repeat an earlier one, for example {example!r}")


def _plain_values(column: pd.Series) -> np.ndarray:
    """Values of a column as bool, int64, float64 or object (strings, mixed)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    column = column.infer_objects()
    undefined = column.isna().to_numpy()
    if pd.api.types.is_bool_dtype(column) and not undefined.any():
        return column.to_numpy(dtype=bool)
    if pd.api.types.is_integer_dtype(column) and not undefined.any():
        return column.to_numpy(dtype=np.int64)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = column.astype(object).to_numpy().copy()
    values[undefined] = None
    for value in values:
        if not isinstance(value, bool | np.bool_ | int | float | np.number | str | None):
            raise InputError(
                f"stimuli: column {column.name!r} holds {value!r}; "
                "expected booleans, numbers or strings"
            )
    return values


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
