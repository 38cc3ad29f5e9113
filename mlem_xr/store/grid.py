"""Zarr groups whose labeled dimensions grow: the ground of activations and of results.

A grid is a zarr v3 group with one array of labels per dimension. New labels are appended: first the
arrays grow, then the labels are written, so that a process killed in between leaves arrays that are
too long, which `read_grid` cuts to the labels, and never labels without data. Labels end at the
first one that was not written.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
"""Chosen by measurement, see tests/benchmarks/test_compression.py."""


_NO_LABEL = np.iinfo(np.int64).min
"""What an integer label is until it is written; a string is empty."""


def array_of(group: zarr.Group, name: str) -> zarr.Array:
    """Return an array of a grid."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{group.store_path}/{name} is not an array")
    return array


def text_at(array: zarr.Array, where: Sequence[int]) -> str:
    """Read one string of an array."""
    return str(np.asarray(array[tuple(where)]).item())


def dims_of(array: zarr.Array) -> tuple[str, ...]:
    """Return the names of an array's dimensions."""
    return tuple(str(name) for name in getattr(array.metadata, "dimension_names", None) or ())


def create_array(
    group: zarr.Group,
    name: str,
    dims: Sequence[str],
    *,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: Any,
    fill_value: Any,
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> zarr.Array:
    """Create an array of a grid; chunks that hold only the fill value are not written."""
    numeric = np.dtype(dtype).kind in "fiub" if dtype is not str else False
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=tuple(max(1, size) for size in chunks),
        dtype=dtype,
        fill_value=fill_value,
        dimension_names=tuple(dims),
        compressors=COMPRESSOR if numeric else "auto",
        attributes=dict(attributes or {}),
        config={"write_empty_chunks": False},
        overwrite=overwrite,
    )


def create_labels(group: zarr.Group, dim: str, labels: Iterable[Any], dtype: Any) -> None:
    """Create the array of labels of a dimension, in the place of one that is there."""
    values = list(labels)
    fill = "" if dtype is str else _NO_LABEL
    array = create_array(
        group,
        dim,
        [dim],
        shape=[len(values)],
        chunks=[4096],
        dtype=dtype,
        fill_value=fill,
        overwrite=True,
    )
    if values:
        array[:] = np.array(values, dtype=object if dtype is str else dtype)


def read_labels(group: zarr.Group, dim: str) -> list[Any]:
    """Read the labels of a dimension as plain Python objects."""
    values = np.asarray(array_of(group, dim)[:])
    written = values[: _n_written(values)]
    return [str(v) if isinstance(v, str) else v.item() for v in written]


def extend(group: zarr.Group, labels: Mapping[str, Iterable[Any]]) -> dict[str, list[int]]:
    """Append the labels that a grid does not know, and say where each label stands.

    The caller holds the lock of the store.
    """
    known = {dim: read_labels(group, dim) for dim in labels}
    full = {
        dim: known[dim] + [v for v in dict.fromkeys(values) if v not in known[dim]]
        for dim, values in labels.items()
    }
    for array in _arrays(group).values():
        dims = dims_of(array)
        if dims != (array.basename,):
            shape = [
                max(size, len(full.get(dim, ())))
                for dim, size in zip(dims, array.shape, strict=True)
            ]
            if tuple(shape) != array.shape:
                array.resize(tuple(shape))
    for dim, values in full.items():
        if len(values) > len(known[dim]):
            array = array_of(group, dim)
            array.resize((len(values),))
            new = values[len(known[dim]) :]
            array[len(known[dim]) :] = np.array(new, object if isinstance(new[0], str) else None)
    return _positions(full, labels)


def positions(group: zarr.Group, labels: Mapping[str, Iterable[Any]]) -> dict[str, list[int]]:
    """Say where labels that a grid knows stand along their dimensions."""
    return _positions({dim: read_labels(group, dim) for dim in labels}, labels)


def _positions(
    known: Mapping[str, list[Any]], labels: Mapping[str, Iterable[Any]]
) -> dict[str, list[int]]:
    return {dim: [known[dim].index(v) for v in values] for dim, values in labels.items()}


def read_grid(
    group: zarr.Group, *, names: Iterable[str] | None = None, lazy: Iterable[str] = ()
) -> xr.Dataset:
    """Open a grid, labels as coordinates: the arrays in `lazy` as Dask arrays, the rest loaded.

    Beside the labels all arrays are read, or those in `names`.
    """
    arrays = _arrays(group)
    labeled = [name for name, a in arrays.items() if dims_of(a) == (name,)]
    sizes = {name: _n_written(np.asarray(arrays[name][:])) for name in labeled}
    wanted = arrays if names is None else {*labeled, *names}
    variables = {}
    for name, array in arrays.items():
        if name not in wanted:
            continue
        dims = dims_of(array)
        cut = tuple(slice(0, sizes.get(dim)) for dim in dims)
        values = _lazy_array(array)[cut] if name in lazy else _plain(np.asarray(array[cut]))
        variables[name] = xr.Variable(dims, values, dict(array.attrs))
    return xr.Dataset(variables, attrs=dict(group.attrs)).set_coords(labeled)


def sort_labels(data: xr.Dataset, dims: Iterable[str]) -> xr.Dataset:
    """Sort the dimensions whose labels are in the order in which they were appended."""
    for dim in dims:
        if dim in data.dims and not data.indexes[dim].is_monotonic_increasing:
            data = data.sortby(dim)
    return data


def _arrays(group: zarr.Group) -> dict[str, zarr.Array]:
    with warnings.catch_warnings():
        # A process that was killed while it wrote leaves a file beside the arrays.
        warnings.filterwarnings("ignore", ".*partial is not recognized", ZarrUserWarning)
        return dict(group.arrays())


def _n_written(labels: np.ndarray) -> int:
    """Count the labels up to the first that a killed process did not write."""
    missing = labels == ("" if labels.dtype.kind in "OTU" else _NO_LABEL)
    return int(np.argmax(missing)) if missing.any() else len(labels)


def _lazy_array(array: zarr.Array) -> da.Array:
    # Chunks of units are read together: a network larger than the store's first one has several.
    chunks = tuple(
        -1 if dim == "unit" else size
        for dim, size in zip(dims_of(array), array.chunks, strict=True)
    )
    # One task holds the zarr array and all chunks refer to it: the graph stays small. The name is
    # new each time: what was read before a checkpoint was recorded again is not what stands there.
    meta = np.empty((0,) * array.ndim, array.dtype)
    return da.from_array(array, chunks=chunks, name=False, inline_array=False, meta=meta)


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(object) if values.dtype.kind == "T" else values
