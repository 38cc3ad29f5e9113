"""One recipe for every analysis: apply an array function to each cell of a Dataset, lazily.

A cell is one (model, seed, step, pooling, layer): a matrix of activations, sentence x unit.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.schema import CELL, InputError, check_activations
from mlem_xr.stimuli.table import MIN_SENTENCES


def map_cells(
    function: Callable[..., NDArray],
    activations: xr.Dataset,
    *arguments: xr.DataArray,
    output: Mapping[str, int],
    unit_values: xr.DataArray | None = None,
    per_unit: bool = False,
    units_per_task: int | None = None,
    **options: Any,
) -> xr.DataArray:
    """Apply `function(activation, [values,] *arguments, **options)` to each cell's activations.

    Units that a cell lacks (NaN for all sentences) are left out before the function sees them; a
    cell without any unit gets NaN.

    Parameters
    ----------
    function : callable
        Takes activations (sentence, unit) and the arguments as arrays; returns float64 with the
        shape of `output`, after a leading axis of units if `per_unit`.
    activations : xr.Dataset
        With a variable `activation` (..., sentence, unit), NumPy- or Dask-backed.
    *arguments : xr.DataArray
        Small arrays that every cell needs; none of their dimensions is one of a cell's.
    output : mapping of str to int
        Names and sizes of the dimensions of a cell's result.
    unit_values : xr.DataArray, optional
        One value per unit of every cell (cell dimensions..., unit): those of the cell are passed
        after its activations.
    per_unit : bool
        Whether the function treats every unit alone, so that a layer may be cut into tasks.
    units_per_task : int, optional
        With `per_unit`, the largest number of units in a task.
    **options
        Passed to the function as they are.

    Returns
    -------
    xr.DataArray
        float64 (cell dimensions..., [unit,] output...), lazy if `activations` is.

    Raises
    ------
    InputError
        If `activations` is not what it should be; when computed, if a cell holds NaN or infinite
        values (the message names it).

    Examples
    --------
    >>> data = xr.Dataset(
    ...     {"activation": (("layer", "sentence", "unit"), np.ones((2, 4, 3)))},
    ...     coords={"layer": [1, 2], "odd": ("sentence", [0, 1, 0, 1])},
    ... )
    >>> map_cells(lambda a: a.sum(axis=0), data, output={"total": 3}).sizes
    Frozen({'layer': 2, 'total': 3})
    """
    check_activations(activations)
    if activations.sizes["sentence"] < MIN_SENTENCES:
        raise InputError(
            f"activations: {activations.sizes['sentence']} sentences; "
            f"expected at least {MIN_SENTENCES}"
        )
    activation = activations["activation"]
    cells = [str(dim) for dim in activation.dims if dim in CELL]
    labels = _cell_labels(activation, cells)
    if activation.chunks is not None:
        units = _cut(activation.chunksizes["unit"], units_per_task) if per_unit else -1
        sizes = dict.fromkeys(cells, 1) | {"sentence": -1, "unit": units}
        # Not DataArray.chunk, which would make the coordinates lazy too.
        chunks = {axis: sizes[str(dim)] for axis, dim in enumerate(activation.dims)}
        activation = activation.copy(data=activation.data.rechunk(chunks))
        labels = labels.chunk(dict.fromkeys(cells, 1))
        arguments = tuple(argument.chunk() for argument in arguments)
    core = ["sentence"] if per_unit else ["unit", "sentence"]
    values = [] if unit_values is None else [unit_values]
    if values and (activation.chunks is not None or values[0].chunks is not None):
        values = [values[0].chunk(dict.fromkeys(cells, 1) | {"unit": -1})]
    return xr.apply_ufunc(
        _over_cells,
        activation,
        labels,
        *values,
        *arguments,
        input_core_dims=[
            core,
            [],
            *(["unit"] for _ in values),
            *(list(argument.dims) for argument in arguments),
        ],
        output_core_dims=[list(output)],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": dict(output)},
        kwargs={
            "function": function,
            "shape": tuple(output.values()),
            "per_unit": per_unit,
            "with_values": len(values) > 0,
            "options": options,
        },
    )


def _over_cells(
    activation: NDArray,
    labels: NDArray,
    *arguments: NDArray,
    function: Callable[..., NDArray],
    shape: tuple[int, ...],
    per_unit: bool,
    with_values: bool,
    options: Mapping[str, Any],
) -> NDArray:
    """Loop over the cells of a block (..., unit, sentence)."""
    values, arguments = (arguments[0], arguments[1:]) if with_values else (None, arguments)
    leading = activation.shape[:-2]
    n_units = activation.shape[-2]
    result = np.full((*leading, *((n_units,) if per_unit else ()), *shape), np.nan)
    labels = np.broadcast_to(labels.reshape(labels.shape[: len(leading)]), leading)
    for cell in np.ndindex(*leading):
        block = np.ascontiguousarray(activation[cell].T)
        present = ~np.isnan(block).all(axis=0)
        if not present.any():
            continue
        if not present.all():
            block = block[:, present]
        if not np.isfinite(block).all():
            raise InputError(f"activations: NaN or infinite values in {labels[cell]}")
        of_cell = () if values is None else (values[cell][present],)
        value = function(block, *of_cell, *arguments, **options)
        if per_unit:
            result[cell][present] = value
        else:
            result[cell] = value
    return result


def _cell_labels(activation: xr.DataArray, cells: list[str]) -> xr.DataArray:
    """Name each cell in words, for errors that arise far away from the labels."""
    fixed = [
        f"{dim}={activation[dim].item()}"
        for dim in CELL
        if dim in activation.coords and dim not in cells
    ]
    values = [[f"{dim}={value}" for value in activation[dim].values] for dim in cells]
    names = [", ".join([*fixed, *names]) or "the only cell" for names in product(*values)]
    shape = [activation.sizes[dim] for dim in cells]
    return xr.DataArray(np.array(names).reshape(shape), dims=cells)


def _cut(chunks: tuple[int, ...], largest: int | None) -> tuple[int, ...]:
    """Cut chunks of units into pieces of at most `largest`."""
    if largest is None:
        return chunks
    return tuple(
        min(largest, chunk - start) for chunk in chunks for start in range(0, chunk, largest)
    )
