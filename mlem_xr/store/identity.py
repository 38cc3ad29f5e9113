"""Saved results as groups of a store: where they lie, and what they say of themselves."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import xarray as xr
import zarr

from mlem_xr.schema import InputError
from mlem_xr.store.address import Address, open_zarr
from mlem_xr.store.grid import (
    array_of,
    check_labels,
    dims_of,
    last_marked,
    read_grid,
    reading,
    values_of,
)

VERSION = version("mlem_xr")

IDENTITY = ("analysis", "settings", "stimuli_hash")
"""Attributes that tell results apart, with the version of this library."""

MARKS = ("fingerprint", "provenance")
"""What a store says of a checkpoint."""

KEPT = (*IDENTITY, "stimuli", "features", "n_units")
"""Attributes of a result that are saved."""


def folder_of(attrs: Mapping[str, Any]) -> str:
    """Return where in a store a result with these attributes lies."""
    identity = {key: attrs[key] for key in IDENTITY} | {"version": VERSION}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"results/{attrs['analysis']}/{key}"


def is_saved(path: Address, attrs: Mapping[str, Any]) -> bool:
    """Say whether a store has a result with these attributes; its marks are made last."""
    return (path / folder_of(attrs) / "computed_from" / "zarr.json").exists()


def open_group(path: Address, attrs: Mapping[str, Any]) -> zarr.Group:
    """Open the group of a saved result."""
    return open_folder(path / folder_of(attrs))


def read_result(group: zarr.Group, **arrays: Any) -> xr.Dataset:
    """Load arrays of a result, as `read_grid` does; refuse one that has lost labels."""
    least = labels_of_marks(group)
    data = read_grid(group, **arrays)
    check_labels(group, data.sizes, least)
    return data


def labels_of_marks(group: zarr.Group) -> dict[str, int]:
    """Say how many labels a result must have at least, by its marks."""
    marks = array_of(group, "computed_from")
    return last_marked(dims_of(marks), values_of(marks))


def all_groups(path: Address, analysis: str = "*") -> Iterator[zarr.Group]:
    """Open all results that describe themselves, of one analysis or of all."""
    for folder in all_folders(path, analysis):
        group = open_folder(folder)
        if "variables" in group.attrs:
            yield group


def all_folders(path: Address, analysis: str = "*") -> list[Address]:
    """List where results lie, of one analysis or of all."""
    marks: Any = (path / "results").glob(f"{analysis}/*/computed_from/zarr.json")
    return [file.parent.parent for file in sorted(marks)]


def open_folder(folder: Address) -> zarr.Group:
    """Open the group of a result where it lies; refuse one that is not what its folder says."""
    with reading(folder):
        group = open_zarr(folder, "r")
        if "variables" in group.attrs and not _is_named(folder, about(group)):
            raise InputError(
                f"store: {folder / 'zarr.json'} is damaged: it names other settings than those "
                "that the result was saved with; expected what was written: remove this folder, "
                "and save the result again"
            )
    return group


def _is_named(folder: Address, attrs: Mapping[str, Any]) -> bool:
    """Say whether a folder is called after these attributes, as other versions may not do."""
    is_whole = all(name in attrs for name in IDENTITY)
    of_this_version = is_whole and folder.name == folder_of(attrs).split("/")[-1]
    return of_this_version == (attrs.get("version") == VERSION)


def about(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a result; zarr's type says that they could be anything."""
    return dict(group.attrs)
