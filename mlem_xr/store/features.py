"""Sentences, features and items as they stand in a store."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr

from mlem_xr.schema import InputError, check_features, check_items, columns_of_feature
from mlem_xr.stimuli.table import column_values, from_codes, is_measured, stimuli_hash, to_codes
from mlem_xr.store.grid import create_array, create_labels, read_grid, reading

OF_STIMULI = ("stimuli", "stimuli_hash", "features")
"""Attributes of a store that its stimuli have; `items` is another, where there are some."""


def write_features(group: zarr.Group, stimuli: xr.Dataset) -> None:
    """Write sentences, features and items.

    Numbers of numeric features and vectors stand as they are; all else as codes of the levels,
    which come beside.
    """
    features, items = check_features(stimuli), check_items(stimuli)
    n = stimuli.sizes["sentence"]
    create_labels(group, "sentence", range(n), np.int64)
    create = partial(create_array, dims=["sentence"], shape=[n], chunks=[n], overwrite=True)
    text = create(group, "text", dtype=str, fill_value="")
    text[:] = stimuli["text"].values.astype(object)
    columns = [column for name in features for column in columns_of_feature(stimuli, name)]
    for name in [*columns, *items]:
        values = column_values(stimuli, name)
        if is_measured(stimuli[name]):
            attributes = stimuli[name].attrs
            array = create(group, name, dtype=np.float64, fill_value=np.nan, attributes=attributes)
            array[:] = values
            continue
        codes, levels = to_codes(values)
        coding = json.dumps({"levels": levels, "dtype": str(values.dtype)})
        attributes = {**stimuli[name].attrs, "coding": coding}
        array = create(group, name, dtype=np.int32, fill_value=-1, attributes=attributes)
        array[:] = codes
    about = {name: stimuli.attrs[name] for name in OF_STIMULI} | {"features": features}
    of_features = {name: columns_of_feature(stimuli, name) for name in features}
    vectors = {name: own for name, own in of_features.items() if own != [name]}
    others = {"items": items, "vectors": vectors}
    group.update_attributes(about | {name: value for name, value in others.items() if value})


def names_of_stimuli(group: zarr.Group) -> list[str]:
    """Name the arrays of the sentences, features and items of a store."""
    return ["text", *_columns(dict(group.attrs))]


def _columns(attrs: Mapping[str, Any]) -> list[str]:
    vectors = attrs.get("vectors", {})
    features = [column for name in attrs["features"] for column in vectors.get(name, [name])]
    return [*features, *attrs.get("items", [])]


def decode_features(data: xr.Dataset, store: Any) -> xr.Dataset:
    """Turn the stored codes of features and items back into booleans, numbers and strings.

    Sentences, features and items that are not those that were written, by their hash, are refused.
    """
    with reading(f"the table of sentences and features in {store}"):
        decoded = {name: _decoded(data[name]) for name in _columns(data.attrs)}
        data.attrs.pop("vectors", None)
        data = data.drop_vars(list(decoded)).assign_coords(decoded)
        found = stimuli_hash(data)
    if found != data.attrs["stimuli_hash"]:
        raise InputError(
            f"store: the sentences and features in {store} are damaged: their hash is {found}; "
            f"expected {data.attrs['stimuli_hash']}. Recording the same stimuli mends them"
        )
    return data


def are_intact(group: zarr.Group) -> bool:
    """Say whether sentences and features are those that were written.

    A disk that is away is no damage: its error is raised.
    """
    try:
        decode_features(read_grid(group, names=names_of_stimuli(group)), group.store_path)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False
    return True


def _decoded(codes: xr.DataArray) -> xr.Variable:
    attrs = dict(codes.attrs)
    if "coding" not in attrs:
        return codes.variable
    values = from_codes(codes.values, **json.loads(attrs.pop("coding")))
    return xr.Variable("sentence", values, attrs)
