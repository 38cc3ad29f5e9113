"""The stimulus table as a Dataset: one coordinate per feature, with levels and a hash."""

import hashlib
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.schema import (
    MIN_SENTENCES,
    RESERVED,
    InputError,
    check_features,
    plain_value,
    warn,
)

_MOST_LEVELS = 20
"""Different numbers of a feature that is a measurement rather than a class."""

_LONGEST_NAME = 200
"""Bytes of a feature's name; file systems have a limit of 255."""


def from_dataframe(table: pd.DataFrame, *, name: str) -> xr.Dataset:
    """Check a table and turn it into stimuli, as `read_stimuli` returns them."""
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    features = [column for column in table.columns if column != "sentence"]
    _check_table(table, features)
    coordinates = {"text": ("sentence", table["sentence"].astype(object).to_numpy())}
    for feature in features:
        coordinates[feature] = ("sentence", values := _plain_values(table[feature]))
        _warn_of_continuous(feature, values)
    stimuli = xr.Dataset(coords={"sentence": np.arange(len(table)), **coordinates})
    stimuli.attrs = {"stimuli": name, "features": features}
    stimuli.attrs["stimuli_hash"] = stimuli_hash(stimuli)
    return stimuli


def to_dataframe(stimuli: xr.Dataset) -> pd.DataFrame:
    """Undo `from_dataframe`: a column `sentence`, then the features in order."""
    columns = {feature: stimuli[feature].values for feature in check_features(stimuli)}
    return pd.DataFrame({"sentence": stimuli["text"].values, **columns})


def to_codes(values: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Encode a feature as positions in the list of its levels.

    Returns int32 (sentence), -1 where None or NaN, and the distinct values as plain Python objects,
    in order of first appearance.
    """
    codes, levels = pd.factorize(np.asarray(values), use_na_sentinel=True)
    return codes.astype(np.int32), [plain_value(level) for level in levels]


def from_codes(codes: np.ndarray, levels: Sequence[Any], dtype: str) -> np.ndarray:
    """Undo `to_codes`; `dtype` is bool, int64, float64 (NaN where undefined) or object (None)."""
    undefined = [np.nan] if dtype == "float64" else [None]
    lookup = np.empty(len(levels) + 1, dtype=object)
    lookup[:] = [*levels, *undefined]
    return lookup[np.asarray(codes)].astype(dtype)


def stimuli_hash(stimuli: xr.Dataset) -> str:
    """Hash sentences and features, so that results can name the stimuli they belong to.

    32 hexadecimal digits, the same for equal sentences and features in the same order.
    """
    columns: dict[str, list[Any]] = {"sentence": stimuli["text"].values.tolist()}
    for feature in stimuli.attrs["features"]:
        if feature not in stimuli.coords:
            continue
        codes, levels = to_codes(stimuli[feature].values)
        columns[feature] = [levels, codes.tolist()]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:32]


def stimuli_attributes(data: xr.Dataset) -> dict[str, Any]:
    """Say which stimuli and how many units a Dataset holds now, and which store they are from.

    A selection of sentences has another hash than its store. Empty without a coordinate `text`.
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
    # In a store, a feature is an array of that name, so a folder.
    unusable = [
        name
        for name in features
        if name in ("", "zarr.json")
        or name.startswith((".", "__"))
        or {"/", "\0"} & set(name)
        or len(name.encode(errors="replace")) > _LONGEST_NAME
    ]
    if unusable:
        raise InputError(
            f"stimuli: column {textwrap.shorten(repr(unusable[0]), 80)}; expected a name without "
            f"'/' and of at most {_LONGEST_NAME} letters that starts with neither '.' nor '__'; "
            "rename it"
        )
    if len(table) < MIN_SENTENCES:
        raise InputError(f"stimuli: {len(table)} sentences; expected at least {MIN_SENTENCES}")
    text = table["sentence"]
    for row, sentence in enumerate(text, 1):
        _check_sentence(row, sentence)
    repeated = int(text.duplicated().sum())
    if repeated:
        example = text[text.duplicated()].iloc[0]
        warn(f"stimuli: {repeated} sentences repeat an earlier one, for example {example!r}")


def _warn_of_continuous(feature: str, values: np.ndarray) -> None:
    n_levels = len(np.unique(values[~np.isnan(values)])) if values.dtype == np.float64 else 0
    if n_levels > _MOST_LEVELS:
        warn(
            f"stimuli: column {feature!r} holds {n_levels} different numbers; two sentences differ "
            "in it or not, however far apart they are: put them into a few classes"
        )


def _check_sentence(row: int, sentence: Any) -> None:
    if sentence is None or sentence is pd.NA or sentence != sentence:
        raise InputError(f"stimuli: the sentence in row {row} is empty")
    if not isinstance(sentence, str):
        found = textwrap.shorten(repr(sentence), 80)
        raise InputError(f"stimuli: the sentence in row {row} is {found}; expected text")
    if not sentence.strip():
        raise InputError(f"stimuli: the sentence in row {row} is empty")
    try:
        sentence.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"stimuli: the sentence in row {row} is no text: {error}") from error


def _plain_values(column: pd.Series) -> np.ndarray:
    """Values of a column as bool, int64, float64 or object (strings, mixed)."""
    if pd.api.types.is_complex_dtype(column):
        raise InputError(
            f"stimuli: column {column.name!r} holds complex numbers; "
            "expected booleans, numbers or strings"
        )
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
