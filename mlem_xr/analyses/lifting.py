"""The one way from an array function to labeled, lazy variables over all representations.

All outputs of a representation are packed into one row of numbers, so that a lazy graph has one
task per block of activations, and unpacked into variables afterwards.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.distances import extent
from mlem_xr.kernels.errors import Undefined
from mlem_xr.schema import InputError, is_leading, leading_dims, warn


@dataclass(frozen=True)
class Output:
    """A variable of a result."""

    dims: tuple[str, ...]
    """Dimensions beyond the leading ones; `other_x` is as long as `x`."""
    long_name: str
    units: str = "1"
    dtype: Literal["float64", "bool"] = "float64"
    original: str | None = None
    """Its column in the original program's tables, where that is another one."""

    @property
    def attrs(self) -> dict[str, str]:
        """Return the attributes of the variable."""
        return {"long_name": self.long_name, "units": self.units}


_REACH = 2
"""Last numbers of a row: by how much a unit varies, and how much of that may be rounding."""


@dataclass(frozen=True)
class _Call:
    """How a function is applied to the representations of a block."""

    function: Callable[..., Mapping[str, NDArray]]
    options: Any
    inputs: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]
    """Inputs that are the same for all representations."""
    outputs: Mapping[str, Output]
    sizes: Mapping[str, int]
    along: str | None

    def parts(self) -> Iterator[tuple[str, Output, tuple[int, ...], slice]]:
        """Say which part of a row each output is, and which shape it has but for `along`."""
        start = 0
        for name, output in self.outputs.items():
            dims = [dim for dim in output.dims if dim != self.along]
            shape = tuple(self.sizes[dim.removeprefix("other_")] for dim in dims)
            stop = start + math.prod(shape)
            yield name, output, shape, slice(start, stop)
            start = stop

    @property
    def width(self) -> int:
        """Return the length of a row: the outputs, and the `reach` of its activations."""
        return max((part.stop for *_, part in self.parts()), default=0) + _REACH

    @property
    def by_unit(self) -> bool:
        """Return whether units are explained one by one, so that tasks may cut them."""
        return self.along == "unit" and "activation" in self.inputs

    @property
    def beside_units(self) -> list[str]:
        """Return the names of the inputs that have no units."""
        return [name for name, dims in self.inputs.items() if "unit" not in dims]


def lift(
    function: Callable[..., Mapping[str, NDArray]],
    arrays: Mapping[str, xr.DataArray],
    options: Any,
    *,
    inputs: Mapping[str, tuple[str, ...]],
    outputs: Mapping[str, Output],
    labels: Mapping[str, Sequence[Any]],
    along: str | None,
    per_task: Callable[[int, Any], int],
) -> dict[str, xr.Variable]:
    """Apply a function to every representation, lazily if an array is lazy.

    The dimensions of the first array that are not among those of `inputs` are the leading ones; an
    array has all of them or none. The rest is as `mlem_xr.analyses.base.Analysis` says.
    """
    own = {dim for dims in inputs.values() for dim in dims}
    main = next(iter(arrays.values()))
    leading = [str(dim) for dim in main.dims if dim not in own]
    shared = frozenset(n for n, array in arrays.items() if not set(leading) & set(array.dims))
    sizes = {str(dim): n for array in arrays.values() for dim, n in array.sizes.items()}
    sizes |= {dim: len(values) for dim, values in labels.items()}
    call = _Call(function, options, dict(inputs), shared, dict(outputs), sizes, along)
    names = _names(main, leading)
    blocks = {
        name: array.variable.transpose(*([] if name in shared else leading), *inputs[name])
        for name, array in arrays.items()
    }
    dims = [*leading, *([along] if along else [])]
    if any(array.chunks is not None for array in arrays.values()):
        most = per_task(sizes.get("sentence", 0), options)
        blocks = {name: _chunked(block, leading, along, most) for name, block in blocks.items()}
        packed: Any = _over_chunks(names, leading, blocks, call)
    else:
        every = names[(slice(None),) * names.ndim]
        packed = _over_block(every, *(block.values for block in blocks.values()), call=call)
    return _unpacked(packed, dims, call)


def _chunked(
    variable: xr.Variable, leading: Sequence[str], along: str | None, most: int
) -> xr.Variable:
    """Make every representation a chunk, cut along a dimension where it is longer than `most`."""
    # Others, such as the k of the best units, keep their chunks.
    named = [dim for dim in leading if is_leading(dim)]
    chunks: dict[Hashable, Any] = {
        dim: 1 if dim in named else -1
        for dim in variable.dims
        if dim in named or dim not in leading
    }
    if along in chunks:
        present = variable.chunksizes.get(along, (variable.sizes[along],))
        chunks[along] = tuple(
            min(most, size - start) for size in present for start in range(0, size, most)
        )
    return variable.chunk(chunks)


def _over_chunks(
    names: "_Names", leading: Sequence[str], blocks: Mapping[str, xr.Variable], call: _Call
) -> da.Array:
    """Do lazily what `_over_block` does, also where the units of a representation are cut."""
    first = next(iter(blocks.values()))
    named = da.from_array(
        names,
        chunks=tuple(first.chunksizes[dim] for dim in leading),
        fancy=False,
        meta=np.empty((0,) * len(leading), object),
    )
    rows = [*leading, *([call.along] if call.along else []), "output"]
    apply = partial(
        da.blockwise, concatenate=True, call=call, dtype=np.float64, meta=np.empty((0,) * len(rows))
    )
    pairs = {name: (block.data, block.dims) for name, block in blocks.items()}
    every = [part for pair in pairs.values() for part in pair]
    is_cut = call.by_unit and len(first.chunksizes["unit"]) > 1
    function = _over_part if is_cut else _over_block
    packed = apply(function, rows, named, leading, *every, new_axes={"output": call.width})
    if not is_cut:
        return packed
    constant = da.blockwise(
        _are_constant,
        leading,
        *(named, leading),
        *(packed, rows),
        concatenate=True,
        call=call,
        meta=np.empty((0,) * len(leading), bool),
    )
    beside = [part for name in call.beside_units for part in pairs[name]]
    return apply(_without_rounding, rows, named, leading, constant, leading, packed, rows, *beside)


@dataclass(frozen=True)
class _Names:
    """The names of all representations in words, made where they are asked for.

    An array of them would be a larger part of a graph than all else in it.
    """

    fixed: Sequence[str]
    values: Sequence[Sequence[str]]
    dtype = np.dtype(object)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of labels of each leading dimension."""
        return tuple(map(len, self.values))

    @property
    def ndim(self) -> int:
        """Return the number of leading dimensions."""
        return len(self.values)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray:
        """Name the representations of a block."""
        some = [names[part] for names, part in zip(self.values, key, strict=True)]
        names = [", ".join([*self.fixed, *own]) or "the only one" for own in product(*some)]
        return np.array(names, dtype=object).reshape([len(part) for part in some])


def _names(array: xr.DataArray, leading: Sequence[str]) -> _Names:
    """Name each representation, for errors that arise far away from the labels."""
    fixed = [
        f"{dim}={array[dim].item()}"
        for dim in leading_dims(name for name, label in array.coords.items() if not label.ndim)
    ]
    return _Names(fixed, [[f"{dim}={value}" for value in array[dim].values] for dim in leading])


def _over_block(names: NDArray, *arrays: NDArray, call: _Call) -> NDArray:
    """Loop over the representations of a block: (leading..., [along,] output), float64."""
    packed = _over_part(names, *arrays, call=call)
    constant = _are_constant(names, packed, call=call)
    beside = [a for name, a in zip(call.inputs, arrays, strict=True) if name in call.beside_units]
    return _without_rounding(names, constant, packed, *beside, call=call)


def _over_part(names: NDArray, *arrays: NDArray, call: _Call) -> NDArray:
    """Loop over representations, or parts of them: each unit is looked at for itself."""
    given = dict(zip(call.inputs, arrays, strict=True))
    lengths = [
        given[name].shape[dims.index(call.along) - len(dims)]
        for name, dims in call.inputs.items()
        if call.along in dims
    ]
    packed = np.full((*names.shape, *lengths[:1], call.width), np.nan)
    for where in np.ndindex(names.shape):
        own = {name: a if name in call.shared else a[where] for name, a in given.items()}
        _explain(own, str(names[where]), call, packed[where])
    return packed


def _are_constant(names: NDArray, packed: NDArray, *, call: _Call) -> NDArray:
    """Say which representations are the same in all sentences, and warn: bool (leading...)."""
    reach = packed[..., -_REACH:]
    if call.along:
        # A unit without a number has none.
        reach = np.fmax.reduce(reach, axis=-2, initial=-np.inf)
    constant: NDArray = (reach[..., 0] <= reach[..., 1]) & np.isfinite(reach[..., 0])
    if constant.any():
        warn(
            "activations: all sentences have the same activations, but for rounding, so there is "
            f"nothing to explain in {'; '.join(names[constant])} (the first token of a causal "
            "network sees nothing of the sentence)"
        )
    return constant


def _without_rounding(
    names: NDArray, constant: NDArray, packed: NDArray, *beside: NDArray, call: _Call
) -> NDArray:
    """Explain units again where their representation is constant, as they vary by rounding alone.

    What is rounding is seen beside the largest of all units, so that each alone does not tell.
    """
    if not (call.by_unit and constant.any()):
        return packed
    packed = packed.copy()
    for where in np.ndindex(names.shape):
        if constant[where]:
            same = np.where(np.isnan(packed[where][:, -1]), np.nan, 0.0)
            own = {"activation": np.broadcast_to(same, (call.sizes["sentence"], len(same)))}
            for name, a in zip(call.beside_units, beside, strict=True):
                own[name] = a if name in call.shared else a[where]
            _explain(own, str(names[where]), call, packed[where])
    return packed


def _explain(arrays: dict[str, NDArray], name: str, call: _Call, packed: NDArray) -> None:
    """Call the function with the units that there are, and fill ([along,] output)."""
    present = _present_units(arrays, call)
    if not present.any():
        return
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    if not present.all():
        arrays = {key: a[_where(present, call.inputs[key])] for key, a in arrays.items()}
    if "activation" in arrays:
        found = extent(arrays["activation"])
        if not found.is_finite:
            raise InputError(f"activations: NaN or infinite values in {name}")
        if call.by_unit:
            packed[present, -_REACH:] = np.stack([found.spread, found.rounding], axis=-1)
        else:
            packed[..., -_REACH:] = found.spread.max(), found.rounding.max()
    try:
        outputs = call.function(**arrays, options=call.options)
    except Undefined as error:
        raise InputError(f"{error} (in {name})") from error
    for key, output, shape, part in call.parts():
        if key in outputs:
            values = np.full((*packed.shape[:-1], *shape), np.nan)
            values[_where(present, output.dims)] = outputs[key]
            packed[..., part] = values.reshape(*packed.shape[:-1], -1)


def _present_units(arrays: Mapping[str, NDArray], call: _Call) -> Any:
    """Find the units that hold a number, in the first input that has units; else all."""
    for name, array in arrays.items():
        dims = call.inputs[name]
        if "unit" in dims:
            return _has_number(array, dims.index("unit"))
    return np.True_


def _has_number(array: NDArray, axis: int) -> NDArray:
    """Say where along an axis there is anything but NaN; first in one place, which mostly has."""
    last = np.moveaxis(array, axis, -1)
    others = tuple(range(last.ndim - 1))
    nothing: NDArray = np.isnan(last[:1] if others else last).all(axis=others)
    if others and nothing.any():
        nothing[nothing] = np.isnan(last[..., nothing]).all(axis=others)
    return ~nothing


def _where(present: NDArray, dims: Sequence[str]) -> tuple[Any, ...]:
    return tuple(present if dim == "unit" else slice(None) for dim in dims)


def _unpacked(packed: Any, dims: Sequence[str], call: _Call) -> dict[str, xr.Variable]:
    variables = {}
    for name, output, shape, part in call.parts():
        own = [dim for dim in output.dims if dim != call.along]
        take = partial(_taken, shape=shape, part=part, logical=output.dtype == "bool")
        if isinstance(packed, da.Array):
            # Not by slicing, which would write down a task for every block and variable.
            data = da.blockwise(
                take,
                [*dims, *own],
                packed,
                [*dims, "output"],
                new_axes=dict(zip(own, shape, strict=True)),
                concatenate=True,
                meta=np.empty((0,) * (len(dims) + len(own)), output.dtype),
            )
        else:
            data = take(packed)
        variables[name] = xr.Variable([*dims, *own], data, output.attrs)
    return variables


def _taken(packed: NDArray, *, shape: tuple[int, ...], part: slice, logical: bool) -> NDArray:
    """Take an output out of the rows."""
    data = packed[..., part].reshape((*packed.shape[:-1], *shape))
    # What is not there is NaN, and false where it says yes or no.
    return data == 1 if logical else data
