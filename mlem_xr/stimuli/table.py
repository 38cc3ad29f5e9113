"""The stimulus table as a Dataset: one coordinate per column, with levels and a hash."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from json import dumps
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.schema import (
    ITEM,
    LABELS,
    MIN_SENTENCES,
    NUMERIC,
    RESERVED,
    InputError,
    check_features,
    check_items,
    choose,
    columns_of,
    columns_of_feature,
    features_of,
    is_name,
    is_storable,
    kind_of,
    listed,
    plain_value,
    shown,
    warn,
)
from mlem_xr.stimuli.targets import COLUMNS, check_targets

_MOST_LEVELS = 20
"""Different numbers of a feature that is a measurement rather than a class."""

MAX_COLUMNS = 1000
"""Features and items of a table; an analysis takes fewer of them."""

_LARGEST_WHOLE = 2**53
"""Up to which float64 holds every whole number."""

_LONGEST_NAME = 200
"""Bytes of a feature's name; file systems have a limit of 255."""


def frame_of(argument: str, table: Any) -> Any:
    """Turn a table of another library (polars, Arrow, datasets) into a DataFrame.

    What has no `to_pandas` is returned as it is; several tables in one are refused.
    """
    if isinstance(table, pd.DataFrame | xr.Dataset | xr.DataArray):
        return table
    parts = list(table.values()) if isinstance(table, Mapping) else []
    if parts and all(map(_is_table, parts)):
        raise InputError(
            f"{argument}: found the tables {listed(map(str, table))}; expected one of them, such "
            f"as {argument}[{shown(next(iter(table)))}]"
        )
    if not _is_table(table):
        return table
    try:
        frame = table.to_pandas()
    # The library of the table may raise anything here.
    except Exception as error:
        raise InputError(f"{argument}: its to_pandas() fails: {shown(str(error))}") from error
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{argument}: its to_pandas() gives {shown(frame)}; expected a DataFrame")
    # Other libraries than Arrow and polars do not know the option.
    with suppress(TypeError):
        check_beside_nulls(argument, frame, lambda: table.to_pandas(integer_object_nulls=True))
    return frame


def _is_table(value: Any) -> bool:
    return callable(getattr(value, "to_pandas", None)) or isinstance(value, pd.DataFrame)


def from_dataframe(table: pd.DataFrame, *, name: str, **roles: Any) -> xr.Dataset:
    """Check a table and turn it into stimuli, as `read_stimuli` returns them; warn of oddities.

    `roles` of columns are those that `checked` takes.
    """
    stimuli = checked(table, name=name, **roles)
    warn_of_oddities(stimuli)
    return stimuli


def checked(
    table: pd.DataFrame,
    *,
    name: str,
    items: Iterable[str] = (),
    belongs: Mapping[str, str] = MappingProxyType({}),
    numeric: Iterable[str] = (),
    vector: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> xr.Dataset:
    """Check a table and turn it into stimuli, without a warning.

    `items` are the columns that are no features; `belongs` says which column holds the items that a
    feature belongs to; `numeric` columns are numbers rather than levels, and each of `vector` is a
    feature of several columns.
    """
    table = table.set_axis([_column_name(column) for column in table.columns], axis=1)
    columns = [column for column in table.columns if column != "sentence"]
    # Which word a sentence is about is no feature, whoever says so.
    targets = [column for column in COLUMNS if column in columns]
    chosen = {choose("items", item, columns) for item in [*items, *targets]}
    others = [column for column in columns if column not in chosen]
    kinds = _kinds(others, numeric, vector)
    features = list(dict.fromkeys(kinds[c].get("vector", c) if c in kinds else c for c in others))
    _check_table(table, features, columns)
    coordinates: dict[str, Any] = {
        "text": ("sentence", table["sentence"].astype(object).to_numpy())
    }
    for column in columns:
        values = _plain_values(table[column], f"stimuli: column {shown(column)}")
        if pd.isna(values).all():
            raise InputError(f"stimuli: column {shown(column)} is empty; expected values")
        if column in kinds:
            values = _numbers(values, column, kinds[column])
        attrs = {"role": ITEM} if column in chosen else kinds.get(column, {})
        coordinates[column] = ("sentence", values, attrs)
    stimuli = xr.Dataset(coords={"sentence": np.arange(len(table)), **coordinates})
    for feature in belongs.keys() & set(features):
        stimuli[columns_of_feature(stimuli, feature)[0]].attrs["item"] = belongs[feature]
    check_targets(stimuli)
    stimuli.attrs = {"stimuli": name, "features": features}
    if chosen:
        stimuli.attrs["items"] = [column for column in columns if column in chosen]
    stimuli.attrs["stimuli_hash"] = stimuli_hash(stimuli)
    return stimuli


def to_dataframe(stimuli: xr.Dataset) -> pd.DataFrame:
    """Undo `from_dataframe`: a column `sentence`, then the features and the items in order."""
    features = (columns_of_feature(stimuli, name) for name in check_features(stimuli))
    names = [*(column for columns in features for column in columns), *check_items(stimuli)]
    columns = {name: stimuli[name].values for name in names}
    return pd.DataFrame({"sentence": stimuli["text"].values, **columns})


def declared_items(data: xr.Dataset, features: Iterable[str]) -> dict[str, str]:
    """Return the column of the items that a feature belongs to, for those that say so themselves.

    Their attribute `item` names it; a column that is not there any more is nothing.
    """
    columns = [name for name in features if kind_of(data, name) != "given"]
    first = {feature: columns_of_feature(data, feature)[0] for feature in columns}
    named = {feature: data[column].attrs.get("item") for feature, column in first.items()}
    known = columns_of(data)
    return {k: v for k, v in named.items() if isinstance(v, str) and v in known and v != k}


def _column_name(column: Any) -> str:
    name = plain_value(column)
    if isinstance(name, bool) or not isinstance(name, str | int) or not is_storable(str(name)):
        raise InputError(f"stimuli: a column is named {shown(column)}; expected a word")
    return str(name)


def feature_values(data: xr.Dataset, name: str, *, argument: str = "features") -> np.ndarray:
    """Values of a feature, of whatever type, as `read_stimuli` would give them; so of items.

    One value per sentence; of a vector float64 (sentence, column); of given distances the position
    of the sentence.
    """
    if kind_of(data, name) == "given":
        return np.arange(data.sizes["sentence"])
    columns = [column_values(data, c, argument=argument) for c in columns_of_feature(data, name)]
    return np.stack(columns, axis=1) if kind_of(data, name) == "vector" else columns[0]


def column_values(data: xr.Dataset, name: str, *, argument: str = "features") -> np.ndarray:
    """Values of a column, as `read_stimuli` would give them."""
    values = np.asarray(data[name].values)
    plain = _plain_values(pd.Series(values, dtype=values.dtype), f"{argument}: {name!r}")
    return _numbers(plain, name, data[name].attrs) if is_measured(data[name]) else plain


def is_measured(column: xr.DataArray) -> bool:
    """Say whether a column holds the numbers of a numeric feature or of a vector."""
    return column.attrs.get("kind") == NUMERIC or "vector" in column.attrs


def to_codes(values: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Encode a feature as positions in the list of its levels.

    Returns int32 (sentence), -1 where None or NaN, and the distinct values as plain Python objects,
    in order of first appearance. A vector (sentence, column) is undefined where a number is.
    """
    if values.ndim > 1:
        undefined = np.isnan(values).any(axis=1)
        rows = pd.Series([None if u else tuple(v) for u, v in zip(undefined, values, strict=True)])
        values = rows.to_numpy(dtype=object)
    codes, levels = pd.factorize(np.asarray(values), use_na_sentinel=True)
    return codes.astype(np.int32), [plain_value(level) for level in levels]


class Codes:
    """Codes and levels of columns of a Dataset, each made once, as `to_codes` returns them."""

    def __init__(self, data: xr.Dataset) -> None:
        """Take the columns of a Dataset."""
        self._data = data
        self._found: dict[str, tuple[np.ndarray, list[Any]]] = {}

    def __getitem__(self, column: str) -> np.ndarray:
        """Return the codes of a feature or of a column of items: int32 (sentence)."""
        return self.with_levels(column)[0]

    def with_levels(self, column: str) -> tuple[np.ndarray, list[Any]]:
        """Return the codes, and the levels that they are positions of."""
        if column not in self._found:
            argument = "features" if column in features_of(self._data) else "items"
            values = feature_values(self._data, column, argument=argument)
            self._found[column] = to_codes(values)
        return self._found[column]


def from_codes(codes: np.ndarray, levels: Sequence[Any], dtype: str) -> np.ndarray:
    """Undo `to_codes`; `dtype` is bool, int64, float64 (NaN where undefined) or object (None)."""
    undefined = [np.nan] if dtype == "float64" else [None]
    lookup = np.empty(len(levels) + 1, dtype=object)
    lookup[:] = [*levels, *undefined]
    return lookup[np.asarray(codes)].astype(dtype)


def stimuli_hash(stimuli: xr.Dataset, *, codes: Codes | None = None) -> str:
    """Hash sentences, features and items, so that results can name the stimuli they belong to.

    32 hexadecimal digits, the same for equal sentences, features and items in the same order. Which
    items a feature belongs to is not in it, as no table says so.
    """
    codes = Codes(stimuli) if codes is None else codes
    columns: dict[str, list[Any]] = {"sentence": stimuli["text"].values.tolist()}
    for feature in features_of(stimuli):
        columns[feature] = _hashed(stimuli, feature, codes)
    items = {item: _hashed(stimuli, item, codes) for item in check_items(stimuli)}
    hashed = [columns, items] if items else columns
    return hashlib.sha256(dumps(hashed).encode()).hexdigest()[:32]


def _hashed(stimuli: xr.Dataset, column: str, codes: Codes) -> list[Any]:
    kind = kind_of(stimuli, column)
    if kind == "given":
        distance = stimuli["feature_distance"].sel(feature=column).transpose("sentence", ...)
        values = np.ascontiguousarray(distance.values, dtype=np.float64)
        return [kind, hashlib.sha256(values.data).hexdigest()]
    if kind != "categorical":
        values = feature_values(stimuli, column)
        return [kind, columns_of_feature(stimuli, column), values.tolist()]
    own, levels = codes.with_levels(column)
    return [levels, own.tolist()]


def stimuli_attributes(data: xr.Dataset, *, codes: Codes | None = None) -> dict[str, Any]:
    """Say which stimuli and how many units a Dataset holds now, and which store they are from.

    A selection of sentences has another hash than its store. Empty without a coordinate `text`.
    """
    if "text" not in data.coords or "stimuli" not in data.attrs:
        return {}
    for row, sentence in enumerate(data["text"].values, 1):
        _check_sentence(row, sentence)
    found = {"stimuli": data.attrs["stimuli"], "stimuli_hash": stimuli_hash(data, codes=codes)}
    if "unit" in data.dims:
        found["n_units"] = data.sizes["unit"]
    return found | ({"store": data.attrs["store"]} if "store" in data.attrs else {})


def _check_table(table: pd.DataFrame, features: list[str], columns: list[str]) -> None:
    if "sentence" not in table.columns:
        raise InputError(f"stimuli: no column 'sentence'; found: {listed(table.columns)}")
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"stimuli: {len(columns)} columns; expected at most {MAX_COLUMNS}")
    if not features:
        beside = "'sentence' and the items" if columns else "'sentence'"
        raise InputError(f"stimuli: no features; expected at least one column beside {beside}")
    if len(set(table.columns)) < len(table.columns):
        raise InputError(f"stimuli: some columns are named twice: {listed(table.columns)}")
    reserved = RESERVED.intersection(columns)
    if reserved:
        raise InputError(
            f"stimuli: mlem_xr itself uses the name of column {sorted(reserved)[0]!r}; rename it"
        )
    # In a store, a column is an array of that name, so a folder.
    unusable = [
        name
        for name in columns
        if not is_name(name)
        or name == "zarr.json"
        or name.startswith((".", "__"))
        or "/" in name
        or len(name.encode(errors="replace")) > _LONGEST_NAME
    ]
    if unusable:
        raise InputError(
            f"stimuli: column {shown(unusable[0])}; expected a name without "
            f"'/' and of at most {_LONGEST_NAME} letters that starts with neither '.' nor '__'; "
            "rename it"
        )
    if len(table) < MIN_SENTENCES:
        raise InputError(f"stimuli: {len(table)} sentences; expected at least {MIN_SENTENCES}")
    text = table["sentence"]
    for row, sentence in enumerate(text, 1):
        _check_sentence(row, sentence)


def warn_of_oddities(stimuli: xr.Dataset) -> None:
    """Warn of sentences that repeat an earlier one, and of features that are measurements."""
    text = pd.Series(stimuli["text"].values)
    targets = {name: stimuli[name].values for name in COLUMNS if name in stimuli.coords}
    again = text[pd.DataFrame({"text": text, **targets}).duplicated()]
    if len(again):
        warn(
            f"stimuli: {len(again)} sentences repeat an earlier one, for example {again.iloc[0]!r}"
        )
    warn_of_measurements(stimuli, features_of(stimuli))


def warn_of_measurements(data: xr.Dataset, features: Iterable[str]) -> None:
    """Warn of categorical features that hold so many numbers that they seem to be numeric."""
    found = []
    for feature in features:
        if kind_of(data, feature) != "categorical":
            continue
        values = data[feature].values
        if values.dtype.kind == "f" and len(np.unique(values[~np.isnan(values)])) > _MOST_LEVELS:
            found.append(feature)
    if found:
        many = "holds" if len(found) == 1 else "hold"
        warn(
            f"stimuli: {', '.join(found)} {many} more than {_MOST_LEVELS} different numbers; two "
            "sentences differ in it or not, however far apart they are: write "
            f"numeric={dumps(found)} in read_stimuli if distances count, or put them into classes"
        )


def _kinds(
    columns: list[str], numeric: Iterable[str], vector: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, str]]:
    """Return the attributes of columns that are not categorical features."""
    kinds = {choose("numeric", name, columns): {"kind": NUMERIC} for name in numeric}
    for feature, parts in vector.items():
        chosen = [choose(f"vector: column of {feature!r}", part, columns) for part in parts]
        if feature in columns and feature not in chosen:
            raise InputError(f"vector: {feature!r} is a column; expected another name")
        for column in chosen:
            if column in kinds:
                other = kinds[column].get("vector", "the numeric features")
                raise InputError(f"vector: column {column!r} is in {feature!r} and in {other}")
            kinds[column] = {"vector": feature}
    return kinds


def _numbers(values: np.ndarray, column: str, attrs: Mapping[str, Any]) -> np.ndarray:
    argument = "vector" if "vector" in attrs else "numeric"
    if values.dtype.kind not in "if":
        wrong = next((value for value in values if isinstance(value, str)), values[0])
        raise InputError(f"{argument}: column {column!r} holds {shown(wrong)}; expected numbers")
    check_exact(pd.Series(values), f"{argument}: column {column!r}")
    return values.astype(np.float64)


def _check_sentence(row: int, sentence: Any) -> None:
    if sentence is None or sentence is pd.NA or sentence is np.nan:
        raise InputError(f"stimuli: the sentence in row {row} is empty")
    if not isinstance(sentence, str):
        raise InputError(f"stimuli: the sentence in row {row} is {shown(sentence)}; expected text")
    if not sentence.strip():
        raise InputError(f"stimuli: the sentence in row {row} is empty")
    if not is_storable(sentence):
        raise InputError(f"stimuli: the sentence in row {row} is {shown(sentence)}; expected text")


def _plain_values(column: pd.Series, where: str) -> np.ndarray:
    """Values of a column as bool, int64, float64 or object (strings, mixed)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        # Categories may be of a type that has no undefined value.
        column = column.astype(object)
    undefined = column.isna().to_numpy()
    given = column[~undefined]
    if column.dtype.kind not in "biuf":
        levels = _distinct(given.tolist())
        for value in levels:
            _check_level(value, where)
        _check_booleans(levels, where)
        # One undefined value for all, or numbers beside pd.NA would be no numbers.
        column = column.astype(object).where(~undefined, np.nan).infer_objects()
    if pd.api.types.is_bool_dtype(column) and not undefined.any():
        return column.to_numpy(dtype=bool)
    if column.dtype.kind in "iuf":
        _check_range(column, where)
        if column.dtype.kind != "f" and not undefined.any():
            return column.to_numpy(dtype=np.int64)
        check_exact(given, where)
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = column.astype(object).to_numpy().copy()
    values[undefined] = None
    return values


def _distinct(values: list[Any]) -> list[Any]:
    """Leave out what was there before, where values can be compared: levels are few."""
    try:
        if len(set(map(type, values))) == 1:
            return list(dict.fromkeys(values))
        return [value for _, value in dict.fromkeys((type(value), value) for value in values)]
    # A user's own object may raise anything here; what is no level is refused later, by name.
    except Exception:
        return values


def _check_range(column: pd.Series, where: str) -> None:
    largest = column.abs().max()
    if largest == np.inf or (column.dtype.kind == "u" and largest > np.iinfo(np.int64).max):
        raise InputError(f"{where} holds {largest}; expected finite numbers, below 2**63")


def check_exact(numbers: pd.Series, where: str) -> None:
    """Refuse large whole numbers that are to become float64, which would make others of them."""
    if numbers.dtype.kind == "f":
        return
    for number in map(plain_value, numbers[numbers.abs() > _LARGEST_WHOLE].tolist()):
        if number != float(number):
            raise InputError(
                f"{where} holds {number}, which would become {float(number):.0f}; expected whole "
                "numbers up to 2**53 where a column is numeric, has fractions or is undefined "
                "somewhere"
            )


def check_beside_nulls(argument: str, table: pd.DataFrame, exact: Callable[[], Any]) -> None:
    """Refuse whole numbers that a table's nulls have made others of, as its column became float64.

    `exact` gives the table in which they are whole; it is called only where numbers are so large.
    """
    large = [i for i in range(table.shape[1]) if has_large(table.iloc[:, i])]
    known = exact() if large else table
    for i in large:
        where = f"{argument}: column {shown(table.columns[i])}"
        check_exact(known.iloc[:, i].dropna(), where)


def has_large(column: pd.Series) -> bool:
    """Say whether a column of float64 may have been one of whole numbers that it does not hold."""
    return column.dtype == np.float64 and bool(_LARGEST_WHOLE <= column.abs().max() < np.inf)


def _check_level(value: Any, where: str) -> None:
    match plain_value(value):
        case str() as text if is_storable(text):
            return
        case int() as whole if abs(whole) < LABELS:
            return
        case float() as number if math.isfinite(number):
            return
    raise InputError(f"{where} holds {shown(value)}; expected booleans, numbers or strings")


def _check_booleans(levels: Iterable[Any], where: str) -> None:
    """Refuse booleans beside numbers that equal them: as levels they would be one."""
    plain = list(map(plain_value, levels))
    booleans = [level for level in plain if isinstance(level, bool)]
    for number in plain if booleans else []:
        if not isinstance(number, bool) and number in booleans:
            raise InputError(
                f"{where} holds {bool(number)} and {number}, which are equal; expected booleans or "
                "numbers"
            )
