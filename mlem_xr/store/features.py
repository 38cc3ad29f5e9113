"""Sentences and features as they stand in a store."""

import json
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr

from mlem_xr.schema import InputError, check_features
from mlem_xr.stimuli.table import feature_values, from_codes, stimuli_hash, to_codes
from mlem_xr.store.grid import create_array, create_labels, read_grid, reading

OF_STIMULI = ("stimuli", "stimuli_hash", "features")
"""Attributes of a store that its stimuli have."""


def write_features(group: zarr.Group, stimuli: xr.Dataset) -> None:
    """Write sentences and features: codes of the levels, which come beside."""
    features = check_features(stimuli)
    n = stimuli.sizes["sentence"]
    create_labels(group, "sentence", range(n), np.int64)
    create = partial(create_array, dims=["sentence"], shape=[n], chunks=[n], overwrite=True)
    text = create(group, "text", dtype=str, fill_value="")
    text[:] = stimuli["text"].values.astype(object)
    for feature in features:
        values = feature_values(stimuli, feature)
        codes, levels = to_codes(values)
        array = create(group, feature, dtype=np.int32, fill_value=-1)
        array.attrs["coding"] = json.dumps({"levels": levels, "dtype": str(values.dtype)})
        array[:] = codes
    group.attrs.update({name: stimuli.attrs[name] for name in OF_STIMULI} | {"features": features})


def decode_features(data: xr.Dataset, store: Any) -> xr.Dataset:
    """Turn the stored codes of the features back into booleans, numbers and strings.

    Sentences and features that are not those that were written, by their hash, are refused.
    """
    with reading(f"the table of sentences and features in {store}"):
        decoded = {name: ("sentence", _decoded(data[name])) for name in data.attrs["features"]}
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
    features: Any = group.attrs["features"]
    try:
        decode_features(read_grid(group, names=["text", *features]), group.store_path)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False
    return True


def _decoded(codes: xr.DataArray) -> np.ndarray:
    return from_codes(codes.values, **json.loads(codes.attrs["coding"]))
