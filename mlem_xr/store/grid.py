"""Zarr groups whose labeled dimensions grow: the ground of activations and of results.

A grid is a zarr v3 group with one array of labels per dimension. New labels are appended: first the
arrays grow, then the labels are written, so that a process killed in between leaves arrays that are
too long, which `read_grid` cuts to the labels, and never labels without data. Labels end at the
first one that was not written. One array of a grid has marks of what was written; labels that end
before the last mark were lost.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from mlem_xr.schema import DIMENSIONS, InputError
from mlem_xr.store.address import Address, address_of, each, missing_files

COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
"""Chosen by measurement, see tests/benchmarks/test_compression.py."""

CHECKSUM = Crc32cCodec()
"""A changed bit is an error when a chunk is read."""


_NO_LABEL = np.iinfo(np.int64).min
"""What an integer label is until it is written; a string is empty."""


@contextmanager
def reading(what: Any) -> Iterator[None]:
    """Turn whatever zarr raises about files into one error that names them."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"store: {what} {_what_is_wrong(error)}; expected what was written"
        ) from error


def _what_is_wrong(error: Exception) -> str:
    # A disk that is away, or a missing permission, is no damage.
    state = "cannot be read" if isinstance(error, OSError) else "is damaged"
    reason = next(iter(str(error).splitlines()), "")
    return f"{state} ({type(error).__name__}: {reason})"


def array_of(group: zarr.Group, name: str) -> zarr.Array:
    """Return an array of a grid, to be read or written."""
    where = f"{group.store_path}/{name}"
    with reading(where):
        array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise InputError(f"store: {where} is damaged: there is no array; expected what was written")
    return array.with_config({"write_empty_chunks": True})


def open_arrays(group: zarr.Group, names: Iterable[str]) -> dict[str, zarr.Array]:
    """Return these arrays of a grid by name."""
    names = list(names)
    arrays = each(address_of(group), lambda name: array_of(group, name), names)
    return dict(zip(names, arrays, strict=True))


def values_of(array: zarr.Array) -> np.ndarray:
    """Read a whole array of a grid."""
    try:
        values = np.asarray(array[...])
    except Exception:
        for chunk in np.ndindex(array.cdata_shape):
            with reading(f"{array.store_path}/{chunk_key(array, chunk)}"):
                array.blocks[chunk]
        raise
    return values.astype(object) if values.dtype.kind == "T" else values


def text_at(array: zarr.Array, where: Sequence[int]) -> str:
    """Read one string of an array."""
    with reading(array.store_path):
        return str(np.asarray(array[tuple(where)]).item())


def dims_of(array: zarr.Array) -> tuple[str, ...]:
    """Return the names of an array's dimensions."""
    return tuple(str(name) for name in getattr(array.metadata, "dimension_names", None) or ())


def chunk_key(array: zarr.Array, chunk: tuple[int, ...]) -> str:
    """Name the file of a chunk within the folder of its array, or a folder of chunks."""
    return str(array.metadata.encode_chunk_key(chunk))


def missing_chunks(array: zarr.Array, chunks: Iterable[tuple[int, ...]]) -> list[Address]:
    """Return where those chunks would be that must be there and are not."""
    return missing_files([file_of(array, chunk) for chunk in chunks]) if _has_all(array) else []


def chunks_of(
    array: zarr.Array, index: Sequence[np.ndarray], n_units: int
) -> Iterator[tuple[int, ...]]:
    """List the chunks of a part of an array.

    `index` has the positions along each dimension, of which those beyond `n_units` units may lack.
    """
    chunks = [
        np.unique((i[i < n_units] if dim == "unit" else i) // size).tolist()
        for dim, i, size in zip(dims_of(array), index, array.chunks, strict=True)
    ]
    return product(*chunks)


def problem_of(array: zarr.Array, chunk: tuple[int, ...]) -> str:
    """Read a chunk that must be there; say what is wrong with it, or nothing."""
    if not file_of(array, chunk).exists():
        return "is missing" if _has_all(array) else ""
    try:
        array.blocks[chunk]
    except MemoryError:
        raise
    except Exception as error:
        return _what_is_wrong(error)
    return ""


def _has_all(array: zarr.Array) -> bool:
    # Without checksums: made by an older version, which omitted chunks of nothing but fill values.
    return CHECKSUM in getattr(array.metadata, "codecs", ())


def file_of(array: zarr.Array, chunk: tuple[int, ...]) -> Address:
    """Return where a chunk lies."""
    return address_of(array) / chunk_key(array, chunk)


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
    """Create an array of a grid, whose chunks have checksums.

    Chunks that hold only the fill value are written like others: one that is missing was lost.
    """
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=tuple(max(1, size) for size in chunks),
        dtype=dtype,
        fill_value=fill_value,
        dimension_names=tuple(dims),
        compressors=[ZstdCodec() if dtype is str else COMPRESSOR, CHECKSUM],
        attributes=dict(attributes or {}),
        config={"write_empty_chunks": True},
        overwrite=overwrite,
    )


def create_labels(
    group: zarr.Group,
    dim: str,
    labels: Iterable[Any],
    dtype: Any,
    attributes: Mapping[Any, Any] | None = None,
) -> None:
    """Create the array of labels of a dimension, in the place of one that is there."""
    values = list(labels)
    fill = "" if dtype is str else _NO_LABEL
    usual = {"long_name": DIMENSIONS[dim]} if dim in DIMENSIONS else {}
    array = create_array(
        group,
        dim,
        [dim],
        shape=[len(values)],
        chunks=[4096],
        dtype=dtype,
        fill_value=fill,
        attributes=usual | dict(attributes or {}),
        overwrite=True,
    )
    if values:
        array[:] = np.array(values, dtype=object if dtype is str else dtype)


def read_labels(group: zarr.Group, dim: str) -> list[Any]:
    """Read the labels of a dimension as plain Python objects."""
    return _labels(array_of(group, dim)).tolist()


def last_marked(dims: Iterable[str], marks: np.ndarray) -> dict[str, int]:
    """Say how many labels a grid has at least along the dimensions of its marks.

    The marks are empty, or zero, where nothing was written. Read them before the labels: whatever
    has a mark by then has its labels.
    """
    last = np.argwhere(marks.astype(bool)).max(axis=0, initial=-1)
    return {dim: position + 1 for dim, position in zip(dims, last.tolist(), strict=True)}


def check_labels(group: zarr.Group, found: Mapping[Any, int], least: Mapping[str, int]) -> None:
    """Refuse a grid that has lost labels: others would take the places of the lost ones.

    `found` is the number of labels of each dimension, `least` what it must be at least.
    """
    for dim, expected in least.items():
        if found[dim] < expected:
            raise InputError(
                f"store: {group.store_path}/{dim} is damaged: {found[dim]} labels; "
                f"expected {expected} at least"
            )


def extend(
    group: zarr.Group, labels: Mapping[str, Iterable[Any]], least: Mapping[str, int]
) -> dict[str, list[Any]]:
    """Append the labels that a grid does not know, and return all that it then has.

    `least` is as in `check_labels`. The caller holds the lock of the store.
    """
    arrays = arrays_of(group)
    arrays |= {dim: array_of(group, dim) for dim in labels if dim not in arrays}
    known = {dim: _labels(arrays[dim]).tolist() for dim in labels}
    check_labels(group, {dim: len(values) for dim, values in known.items()}, least)
    full = {
        dim: known[dim] + [v for v in dict.fromkeys(values) if v not in known[dim]]
        for dim, values in labels.items()
    }

    def extend_array(array: zarr.Array) -> None:
        dims = dims_of(array)
        if dims != (array.basename,):
            shape = [
                max(size, len(full.get(dim, ())))
                for dim, size in zip(dims, array.shape, strict=True)
            ]
            if tuple(shape) != array.shape:
                array.resize(tuple(shape))

    each(address_of(group), extend_array, arrays.values())
    for dim, values in full.items():
        if len(values) > len(known[dim]):
            array = arrays[dim]
            array.resize((len(values),))
            new = values[len(known[dim]) :]
            array[len(known[dim]) :] = np.array(new, object if isinstance(new[0], str) else None)
    return full


def positions(
    known: Mapping[str, list[Any]], labels: Mapping[str, Iterable[Any]]
) -> dict[str, list[int]]:
    """Say where labels stand among all that a grid knows."""
    return {dim: [known[dim].index(v) for v in values] for dim, values in labels.items()}


def read_grid(
    group: zarr.Group, *, names: Iterable[str] | None = None, without: Iterable[str] = ()
) -> xr.Dataset:
    """Load a grid with the labels as coordinates: all arrays, or those in `names`.

    `without` names arrays that are not loaded.
    """
    arrays = arrays_of(group) if names is None else open_arrays(group, names)
    dims = dict.fromkeys(dim for array in arrays.values() for dim in dims_of(array))

    def labels_along(dim: str) -> xr.Variable:
        array = arrays[dim] if dim in arrays else array_of(group, dim)
        return xr.Variable(dim, _labels(array), dict(array.attrs))

    def variable(name: str) -> xr.Variable:
        array = arrays[name]
        if any(labels[dim].size > n for dim, n in zip(dims_of(array), array.shape, strict=True)):
            # Other processes make arrays grow before they add labels: it has grown meanwhile.
            array = array_of(group, name)
        cut = tuple(slice(0, labels[dim].size) for dim in dims_of(array))
        return xr.Variable(dims_of(array), values_of(array)[cut], dict(array.attrs))

    where = address_of(group)
    labels = dict(zip(dims, each(where, labels_along, dims), strict=True))
    others = [name for name in arrays if name not in labels and name not in without]
    variables = dict(zip(others, each(where, variable, others), strict=True))
    return xr.Dataset(labels | variables, attrs=dict(group.attrs)).set_coords(list(labels))


def sort_labels(data: xr.Dataset, dims: Iterable[str]) -> xr.Dataset:
    """Sort the dimensions whose labels are in the order in which they were appended."""
    for dim in dims:
        if dim in data.dims and not data.indexes[dim].is_monotonic_increasing:
            data = data.sortby(dim)
    return data


def arrays_of(group: zarr.Group) -> dict[str, zarr.Array]:
    """Return all arrays of a grid by name."""
    with warnings.catch_warnings(), reading(group.store_path):
        # A process that was killed while it wrote leaves a file beside the arrays.
        warnings.filterwarnings("ignore", ".*partial is not recognized", ZarrUserWarning)
        return dict(group.arrays())


def _labels(array: zarr.Array) -> np.ndarray:
    """Read labels up to the first that a killed process did not write."""
    values = values_of(array)
    missing = values == ("" if values.dtype.kind in "OTU" else _NO_LABEL)
    return values[: int(np.argmax(missing)) if missing.any() else len(values)]
