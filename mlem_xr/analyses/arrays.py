"""Arrays from anywhere, and a table of features -> the Dataset that every analysis takes."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.distances import extent
from mlem_xr.schema import (
    InputError,
    check_activations,
    check_features,
    check_text,
    columns_of,
    is_leading,
    listed,
    several,
    shown,
)
from mlem_xr.stimuli.files import read_stimuli
from mlem_xr.stimuli.table import frame_of
from mlem_xr.stimuli.targets import COLUMNS

OWN = ("sentence", "unit")
"""Dimensions of a representation."""

_LABELS = "iufmM"
"""Kinds of dtypes of labels, besides words."""


def from_arrays(
    activations: Any,
    features: Any,
    *,
    dims: Iterable[str] | Mapping[str, Any] | None = None,
    items: str | Iterable[str] | None = None,
    numeric: str | Iterable[str] | None = None,
    vector: Mapping[str, str | Iterable[str]] | None = None,
) -> xr.Dataset:
    """Make the Dataset that every analysis takes out of an array and a table of features.

    For activity that no network of `record` gave: of other libraries, of brains, of one's own code.

    Parameters
    ----------
    activations : array
        NumPy or Dask array, DataArray, or what NumPy takes for an array, such as a tensor of torch.
        Whole numbers become float64; a Dask array stays lazy. NaN in all sentences and units of a
        representation: not measured; NaN in a whole unit: the representation lacks it.
    features : pd.DataFrame, another table, xr.Dataset, str or path
        One row per sentence, in the order of the array: what `read_stimuli` returns or reads. A
        table, or a Dataset of coordinates over `sentence`, needs no column `sentence`: then
        the result has no coordinate `text`.
    dims : iterable of str or mapping, optional
        Names of the array's dimensions, in order, with `sentence` and `unit` among them; as a
        mapping, with the labels along each, None: 0, 1, .... Any other dimension may be there, and
        each of its labels is a representation of its own: `model`, `seed`, `step`, `pooling` and
        `layer` as in a store, or `subject`, `roi`, `time`. By default those of a DataArray.
    items, numeric, vector
        What columns of `features` are, as for `read_stimuli`.

    Returns
    -------
    xr.Dataset
        `activation` (..., sentence, unit), of the array's floating dtype and in its own measure;
        coordinates: labels of all dimensions, features and items and, where there are sentences,
        `text`, over `sentence`. `save_results` needs a store, into which `add_activations` puts
        activations; results of this Dataset are kept by their own `to_zarr`.

    Raises
    ------
    InputError
        If the array is not what it should be, has other dimensions than `dims` or another number
        of sentences than the table, if labels are there twice, or the names of dimensions or
        features are taken.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"plural": np.arange(40) % 2})
    >>> voxels = rng.normal(size=(2, 40, 5)) + 3 * table[["plural"]].to_numpy()
    >>> data = from_arrays(
    ...     voxels, table, dims={"subject": ["anna", "ben"], "sentence": None, "unit": None}
    ... )
    >>> dict(data.sizes), data.attrs["features"]
    ({'subject': 2, 'sentence': 40, 'unit': 5}, ['plural'])
    """
    variable = labeled_array("activations", activations, dims)
    features = frame_of("features", features)
    try:
        roles = {"items": items, "numeric": numeric, "vector": vector}
        stimuli = _stimuli(features, roles)
    except InputError as error:
        raise InputError(f"features: {str(error).removeprefix('stimuli: ')}") from error
    check_order("activations", activations, stimuli, _sentences(features, stimuli))
    n, found = stimuli.sizes["sentence"], variable.sizes["sentence"]
    if n != found:
        raise InputError(
            f"activations: {found} sentences; expected {n}, as there are rows in features"
        )
    taken = set(variable.dims) & set(columns_of(stimuli))
    if taken:
        raise InputError(
            f"dims: {listed(sorted(map(str, taken)))} is a column of features too; rename one"
        )
    data = xr.Dataset({"activation": variable}, attrs=stimuli.attrs)
    data = data.assign_coords(stimuli.drop_vars("sentence").coords)
    check_activations(data)
    return data


def labeled_array(
    argument: str, array: Any, dims: Any, *, usual: Sequence[str] = ()
) -> xr.DataArray:
    """Return an array of a floating type with named and labeled dimensions (..., sentence, unit).

    `dims` is as in `from_arrays`; where none are given, the dimensions are the last `usual` ones.
    """
    values = _values(argument, array)
    own = array.dims if isinstance(array, xr.DataArray) else None
    if dims is None and own is None and len(OWN) <= values.ndim <= len(usual):
        dims = usual[-values.ndim :]
    if dims is None and own is None and usual:
        raise InputError(
            f"{argument}: it has {values.ndim} dimensions; expected {len(OWN)} to {len(usual)}, "
            f"the last ones of {listed(usual)}"
        )
    if dims is None and own is None:
        raise InputError("dims: none given; expected a name for each dimension of the array")
    labels = _labels(own if dims is None else dims)
    if own is not None and tuple(labels) != own:
        raise InputError(f"dims: {listed(labels)}; expected those of {argument}: {listed(own)}")
    if len(labels) != values.ndim:
        raise InputError(
            f"dims: {listed(labels)}; expected {values.ndim} names, as {argument} has the shape "
            f"{tuple(values.shape)}"
        )
    missing = [dim for dim in OWN if dim not in labels]
    if missing:
        of = "dims" if own is None else argument
        raise InputError(f"{of}: dimensions {listed(labels)}, which lack {listed(missing)}")
    coords: dict[Hashable, Any] = {dim: np.arange(values.shape[i]) for i, dim in enumerate(labels)}
    if own is not None:
        # What else is said of sentences, the table of features says.
        of_others = (k for k, v in array.coords.items() if k in own or "sentence" not in v.dims)
        coords |= {name: array[name].variable for name in of_others}
    sizes = dict(zip(labels, values.shape, strict=True))
    given = {dim: one for dim, one in labels.items() if one is not None}
    coords |= {dim: (dim, _checked_labels(dim, one, sizes[dim])) for dim, one in given.items()}
    return xr.DataArray(values, coords, list(labels)).transpose(..., *OWN)


def check_order(
    argument: str, array: Any, stimuli: xr.Dataset, labels: np.ndarray | None = None
) -> None:
    """Refuse a DataArray that says other things of its sentences than the table, or in other order.

    `labels` are those of the table's sentences, if other than its own.
    """
    if not isinstance(array, xr.DataArray):
        return
    names = [name for name in ("text", *columns_of(stimuli)) if name in stimuli.coords]
    known = {"sentence": stimuli["sentence"].values if labels is None else labels}
    known |= {name: stimuli[name].values for name in names}
    for name in known.keys() & {name for name, c in array.coords.items() if c.dims == OWN[:1]}:
        found, expected = _plain(array[name].values), _plain(known[name])
        if found != expected:
            what = {"sentence": "labels", "text": "texts"}.get(name, f"values of {name!r}")
            raise InputError(
                f"{argument}: its sentences have the {what} "
                f"{listed(found[:3])}, ..., the table's {listed(expected[:3])}, ...; expected the "
                f"same, or drop_vars({name!r}) where the rows are the same"
            )


def lost_units(values: NDArray) -> tuple[NDArray, NDArray]:
    """Say which units (sentence, unit) vary, and which of them do not in single precision."""
    # What is infinite or NaN is refused elsewhere.
    with np.errstate(over="ignore", invalid="ignore"):
        found = extent(values)
        varies = found.spread > found.rounding
        return varies, varies & (np.ptp(values.astype(np.float32), axis=0) == 0)


def _plain(values: np.ndarray) -> list[Any]:
    """Return values that can be compared: what is undefined is None."""
    column = pd.Series(values).astype(object)
    return column.where(column.notna(), None).tolist()


def _values(argument: str, array: Any) -> Any:
    """Return an array of NumPy or Dask, of a floating type."""
    if isinstance(array, xr.DataArray):
        array = array.data
    elif isinstance(array, np.ma.MaskedArray):
        # Where values are masked, xarray puts NaN.
        array = xr.DataArray(array).data
    elif not isinstance(array, da.Array):
        try:
            # A tensor may keep what its gradient takes, or lie on another device.
            array = array.detach().cpu() if hasattr(array, "detach") else array
            array = np.asarray(array)
        except Exception as error:
            raise InputError(
                f"{argument}: found {type(array).__name__}, which NumPy cannot take "
                f"({type(error).__name__}: {shown(str(error))}); expected an array of numbers"
            ) from error
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise InputError(f"{argument}: found dtype {array.dtype}; expected numbers")
    if any(map(math.isnan, array.shape)):
        raise InputError(
            f"{argument}: Dask does not know its shape; expected chunks of known size, as "
            "compute_chunk_sizes makes them"
        )
    return array


def _labels(dims: Any) -> dict[str, Any]:
    """Return the labels of each dimension; None where none are given."""
    if isinstance(dims, Mapping):
        return {_checked_dim("dims", dim): labels for dim, labels in dims.items()}
    return dict.fromkeys(several("dims", dims, _checked_dim, twice=False))


def _checked_dim(argument: str, dim: Any) -> str:
    dim = check_text(argument, dim)
    if dim not in OWN and not is_leading(dim):
        raise InputError(
            f"{argument}: found {dim!r}; expected a name that mlem_xr does not use itself"
        )
    return dim


def _checked_labels(dim: str, labels: Any, n: int) -> np.ndarray:
    expected = f"expected {n} different numbers or names"
    try:
        values = np.asarray(labels)
        words = all(isinstance(label, str) for label in labels)
    except Exception as error:
        raise InputError(f"dims: labels of {dim!r} cannot be read; {expected}") from error
    # NumPy would turn numbers among words into words.
    known = words if values.dtype.kind in "UO" else values.dtype.kind in _LABELS
    if values.shape != (n,) or not known or pd.Series(values).duplicated().any():
        raise InputError(f"dims: labels of {dim!r} are {shown(labels)}; {expected}")
    if pd.isna(values).any():
        raise InputError(f"dims: labels of {dim!r} are {shown(labels)}; {expected}")
    return values.astype(str) if words else values


def _stimuli(features: Any, roles: Mapping[str, Any]) -> xr.Dataset:
    """Read sentences and features, or features alone."""
    if isinstance(features, xr.Dataset) and "text" not in features.coords:
        check_features(features)
        text = [str(row) for row in range(features.sizes["sentence"])]
        columns = list(features.coords)
        features = features.assign_coords(text=("sentence", np.array(text, dtype=object)))
    elif isinstance(features, pd.DataFrame) and "sentence" not in features.columns:
        columns = list(features.columns)
        features = features.assign(sentence=[str(row) for row in range(len(features))])
    else:
        return read_stimuli(features, **roles)
    if targets := set(COLUMNS) & set(columns):
        raise InputError(
            f"features: {sorted(targets)[0]!r} names a word of a sentence; expected a column "
            "'sentence', or another name: rename it"
        )
    stimuli = read_stimuli(features, **roles)
    stimuli.attrs = {k: v for k, v in stimuli.attrs.items() if k in ("features", "items")}
    return stimuli.drop_vars("text")


def _sentences(features: Any, stimuli: xr.Dataset) -> np.ndarray:
    """Return the labels of the sentences: those of a Dataset; else the numbers of the rows."""
    given = isinstance(features, xr.Dataset) and "sentence" in features.coords
    return (features if given else stimuli)["sentence"].values
