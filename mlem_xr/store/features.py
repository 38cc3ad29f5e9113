"""Sentences and features as they stand in a store."""

import json

import numpy as np
import xarray as xr
import zarr

from mlem_xr.schema import check_features
from mlem_xr.stimuli.table import from_codes, to_codes
from mlem_xr.store.grid import create_array, create_labels


def write_features(group: zarr.Group, stimuli: xr.Dataset) -> None:
    """Write sentences and features into a new group: codes of the levels, which come beside."""
    features = check_features(stimuli)
    n = stimuli.sizes["sentence"]
    create_labels(group, "sentence", range(n), np.int64)
    text = create_array(
        group, "text", ["sentence"], shape=[n], chunks=[n], dtype=str, fill_value=""
    )
    text[:] = stimuli["text"].values.astype(object)
    for feature in features:
        values = stimuli[feature].values
        codes, levels = to_codes(values)
        array = create_array(
            group, feature, ["sentence"], shape=[n], chunks=[n], dtype=np.int32, fill_value=-1
        )
        array.attrs["coding"] = json.dumps({"levels": levels, "dtype": str(values.dtype)})
        array[:] = codes
    group.attrs.update(
        {
            "stimuli": stimuli.attrs["stimuli"],
            "stimuli_hash": stimuli.attrs["stimuli_hash"],
            "features": features,
        }
    )


def decode_features(data: xr.Dataset) -> xr.Dataset:
    """Turn the stored codes of the features back into booleans, numbers and strings."""
    decoded = {
        name: ("sentence", from_codes(data[name].values, **json.loads(data[name].attrs["coding"])))
        for name in data.attrs["features"]
    }
    return data.drop_vars(list(decoded)).assign_coords(decoded)
