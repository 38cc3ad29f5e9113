"""What an analysis is, and the one way from its array function to a labeled, lazy result.

An analysis is one record, `Analysis`. Its packing and unpacking, labels, settings, table columns,
command, and how it is saved and opened follow from the record; they are written nowhere else.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.analyses.layers import layer_settings
from mlem_xr.analyses.options import Options
from mlem_xr.kernels.errors import Undefined
from mlem_xr.schema import (
    MIN_SENTENCES,
    REPRESENTATION,
    InputError,
    check_activations,
    listed,
)
from mlem_xr.stimuli.pairs import feature_codes
from mlem_xr.stimuli.table import stimuli_attributes

Stage = Literal["distances", "mds", "importance"]

_FILL: dict[str, Any] = {"float64": np.nan, "bool": False}
"""What stands for a value that there is none of."""


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
    optional: bool = False
    """Whether it is there only where the option of its name is on."""

    @property
    def attrs(self) -> dict[str, str]:
        """Return the attributes of the variable."""
        return {"long_name": self.long_name, "units": self.units}


@dataclass(frozen=True)
class Source:
    """The result of another analysis, from which an analysis takes arrays."""

    argument: str
    """What the public function calls it."""
    arrays: Callable[[Any, Any], Mapping[str, xr.DataArray]]
    """Takes the result and the options; returns arrays by name."""
    analysis: str | None = None
    """Which analysis; None: any that has the arrays."""
    kept: bool = False
    """Whether its variables are part of the new result, where that has no others."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All there is to know about an analysis."""

    name: str
    """Name of the public function."""
    help: str
    """One sentence."""
    command: str
    """Name on the command line."""
    function: Callable[..., Mapping[str, NDArray]]
    """Takes the inputs by name, and `options`; returns the outputs of one representation by name.
    An output that is missing is NaN."""
    inputs: Mapping[str, tuple[str, ...]]
    """Arrays of the function, and their dimensions in one representation: `activation` and `codes`
    of the features come from the activations, all others from the `source`. Units without a number
    (NaN) are left out before the function sees them, and are NaN in the outputs."""
    outputs: Mapping[str, Output]
    options: type[Options] = Options
    labels: Callable[[Any], Mapping[str, Sequence[Any]]] = lambda options: {}
    """Labels of the outputs' own dimensions, for the options."""
    check: Callable[[Mapping[str, xr.DataArray], Any], None] = lambda arrays, options: None
    """Checks and warnings that need arrays and options, before anything is computed."""
    source: Source | None = None
    along: str | None = None
    """A dimension that the function goes along one by one, so that tasks may cut it; the first of
    all outputs."""
    per_task: Callable[[int], int] = lambda n_sentences: 1
    """How much of it a task takes at most."""
    stage: Stage = "importance"
    """What `refresh` calls it."""
    original: str | None = None
    """The original program's name, in the column `Method` of its tables."""
    leading: str = "importance"
    """The output whose largest values the command line prints, if it has features."""

    def present(self, options: Any) -> dict[str, Output]:
        """Return the outputs that there are with these options."""
        return {
            name: output
            for name, output in self.outputs.items()
            if not output.optional or getattr(options, name)
        }

    def __call__(
        self,
        activations: xr.Dataset | None,
        options: Any,
        *,
        features: Iterable[str] | None = None,
        source: xr.Dataset | None = None,
    ) -> xr.Dataset:
        """Apply the function to every representation, lazily if an input is lazy.

        `activations` has `activation` (..., sentence, unit), or is None if the analysis takes none;
        `source` is the result that it starts from. The outputs have the coordinates of the one or
        the other. Raises `InputError` if an input is not what it should be; when computed, if
        activations hold NaN or infinite values, or have no answer: the message names the
        representation.
        """
        arrays = _inputs(self, activations, options, features, source)
        self.check(arrays, options)
        like = activations if activations is not None else source
        assert like is not None
        variables = _lift(self, arrays, options)
        if self.source is not None and self.source.kept:
            result = like.assign({name: (v.dims, v.data) for name, v in variables.items()})
            for name in variables:
                result[name] = result[name].transpose(*like[name].dims)
                result[name].attrs = like[name].attrs
        else:
            result = xr.Dataset(variables, _coordinates(self, variables, arrays, options, like))
        if source is not None and "computed_from" in source.coords:
            # A result of results that are not there, or not any more, is not there either.
            result = result.assign_coords(computed_from=source["computed_from"])
        return result.assign_attrs(_attributes(self, activations, options, arrays, source))


def _inputs(
    analysis: Analysis,
    activations: xr.Dataset | None,
    options: Any,
    features: Iterable[str] | None,
    source: xr.Dataset | None,
) -> dict[str, xr.DataArray]:
    arrays: dict[str, xr.DataArray] = {}
    if analysis.source is not None:
        arrays |= analysis.source.arrays(source, options)
    if activations is not None:
        check_activations(activations)
        n = activations.sizes["sentence"]
        if n < MIN_SENTENCES:
            raise InputError(f"activations: {n} sentences; expected at least {MIN_SENTENCES}")
        arrays["activation"] = activations["activation"]
    if activations is not None and "codes" in analysis.inputs:
        arrays["codes"] = feature_codes(activations, features)
    return {name: arrays[name] for name in analysis.inputs}


def _coordinates(
    analysis: Analysis,
    variables: Mapping[str, xr.Variable],
    arrays: Mapping[str, xr.DataArray],
    options: Any,
    like: xr.Dataset,
) -> dict[Hashable, Any]:
    dims = {dim for variable in variables.values() for dim in variable.dims}
    coords: dict[Hashable, Any] = {
        name: coordinate.variable
        for name, coordinate in like.coords.items()
        if set(coordinate.dims) <= dims
    }
    if "codes" in arrays:
        coords["feature"] = arrays["codes"]["feature"].values
    for dim in map(str, dims):
        if dim.startswith("other_"):
            own = dim.removeprefix("other_")
            coords[own] = coords[dim] = like[own].values
    return coords | {dim: list(values) for dim, values in analysis.labels(options).items()}


def _attributes(
    analysis: Analysis,
    activations: xr.Dataset | None,
    options: Any,
    arrays: Mapping[str, xr.DataArray],
    source: xr.Dataset | None,
) -> dict[str, Any]:
    """Say what a result is: its analysis, all its settings, and what it was made from."""
    attrs: dict[str, Any] = {} if source is None else dict(source.attrs)
    settings = options.settings()
    if activations is not None:
        attrs |= stimuli_attributes(activations)
        per_unit = any("unit" in output.dims for output in analysis.outputs.values())
        settings |= layer_settings(activations, per_unit=per_unit)
    if "codes" in arrays:
        attrs["features"] = settings["features"] = arrays["codes"]["feature"].values.tolist()
    if source is not None and analysis.source is not None:
        nested = dict(source.attrs.get("settings", {}))
        # Results that were not concatenated from layers have no such settings.
        settings = {k: nested[k] for k in ("layers", "n_units") if k in nested} | settings
        name = source.attrs.get("analysis", analysis.source.analysis)
        settings[analysis.source.argument] = {"analysis": name} | nested
    return attrs | {"analysis": analysis.name, "settings": settings}


class _Call(NamedTuple):
    """How the function is applied to a block of representations."""

    function: Callable[..., Mapping[str, NDArray]]
    options: Any
    inputs: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]
    """Inputs that are the same for all representations."""
    outputs: Mapping[str, Output]
    sizes: Mapping[str, int]
    along: str | None


def _lift(
    analysis: Analysis, arrays: Mapping[str, xr.DataArray], options: Any
) -> dict[str, xr.Variable]:
    """Apply the function to every representation: one task per block, its outputs in one row."""
    core = {dim for dims in analysis.inputs.values() for dim in dims}
    main = next(iter(arrays.values()))
    leading = [str(dim) for dim in main.dims if dim not in core]
    sizes = {str(d): n for array in arrays.values() for d, n in array.sizes.items()}
    sizes |= {dim: len(labels) for dim, labels in analysis.labels(options).items()}
    outputs = analysis.present(options)
    shared = frozenset(n for n, array in arrays.items() if not set(leading) & set(array.dims))
    call = _Call(
        *(analysis.function, options, dict(analysis.inputs), shared, outputs, sizes),
        along=analysis.along,
    )
    blocks = [_names(main, leading)] + [
        array.variable.transpose(*([] if name in shared else leading), *analysis.inputs[name])
        for name, array in arrays.items()
    ]
    out = [*leading, *([analysis.along] if analysis.along else []), "output"]
    if any(array.chunks is not None for array in arrays.values()):
        most = analysis.per_task(sizes.get("sentence", 0))
        blocks = [_in_blocks(block, leading, analysis.along, most) for block in blocks]
        packed = da.blockwise(
            _over_block,
            out,
            *(part for block in blocks for part in (block.data, block.dims)),
            new_axes={"output": _width(call)},
            concatenate=True,
            dtype=np.float64,
            meta=np.empty((0,) * len(out)),
            call=call,
        )
    else:
        packed = _over_block(*(block.values for block in blocks), call=call)
    return _unpacked(packed, out[:-1], call)


def _in_blocks(
    variable: xr.Variable, leading: Sequence[str], along: str | None, most: int
) -> xr.Variable:
    """Make every representation a chunk, cut along a dimension where it is longer than `most`."""
    chunks: dict[Hashable, Any] = {
        dim: 1 if dim in REPRESENTATION else -1
        for dim in variable.dims
        if dim in REPRESENTATION or dim not in leading
    }
    if along in chunks:
        present = variable.chunksizes.get(along, (variable.sizes[along],))
        chunks[along] = tuple(
            min(most, size - start) for size in present for start in range(0, size, most)
        )
    return variable.chunk(chunks)


def _names(array: xr.DataArray, leading: Sequence[str]) -> xr.Variable:
    """Name each representation in words, for errors that arise far away from the labels."""
    fixed = [
        f"{dim}={array[dim].item()}"
        for dim in REPRESENTATION
        if dim in array.coords and dim not in leading
    ]
    values = [[f"{dim}={value}" for value in array[dim].values] for dim in leading]
    names = [", ".join([*fixed, *names]) or "the only one" for names in product(*values)]
    return xr.Variable(leading, np.array(names).reshape([array.sizes[dim] for dim in leading]))


def _shape(output: Output, call: _Call) -> tuple[int, ...]:
    dims = (dim for dim in output.dims if dim != call.along)
    return tuple(call.sizes[dim.removeprefix("other_")] for dim in dims)


def _width(call: _Call) -> int:
    return sum(math.prod(_shape(output, call)) for output in call.outputs.values())


def _over_block(names: NDArray, *arrays: NDArray, call: _Call) -> NDArray:
    """Loop over the representations of a block: (leading..., [along,] output), float64."""
    given = dict(zip(call.inputs, arrays, strict=True))
    packed = np.full((*names.shape, *_length_along(given, call), _width(call)), np.nan)
    for where in np.ndindex(names.shape):
        own = {n: a if n in call.shared else a[where] for n, a in given.items()}
        packed[where] = _over_representation(own, str(names[where]), packed[where].shape, call)
    return packed


def _length_along(arrays: Mapping[str, NDArray], call: _Call) -> list[int]:
    """Return the length of the block along the dimension that tasks cut, if there is one."""
    for name, dims in call.inputs.items():
        if call.along in dims:
            return [arrays[name].shape[dims.index(call.along) - len(dims)]]
    return []


def _over_representation(
    arrays: dict[str, NDArray], name: str, shape: tuple[int, ...], call: _Call
) -> NDArray:
    """Call the function with the units that there are: ([along,] output)."""
    packed = np.full(shape, np.nan)
    present = _present_units(arrays, call)
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    if not present.all():
        if not present.any():
            return packed
        arrays = {
            key: array[tuple(present if dim == "unit" else slice(None) for dim in call.inputs[key])]
            for key, array in arrays.items()
        }
    if not np.isfinite(arrays.get("activation", 0.0)).all():
        raise InputError(f"activations: NaN or infinite values in {name}")
    try:
        outputs = call.function(**arrays, options=call.options)
    except Undefined as error:
        raise InputError(f"{error} (in {name})") from error
    start = 0
    for key, output in call.outputs.items():
        sizes = (*shape[:-1], *_shape(output, call))
        stop = start + math.prod(sizes[len(shape) - 1 :])
        if key in outputs:
            values = np.full(sizes, np.nan)
            where = (present if dim == "unit" else slice(None) for dim in output.dims)
            values[tuple(where)] = outputs[key]
            packed[..., start:stop] = values.reshape(*shape[:-1], -1)
        start = stop
    return packed


def _present_units(arrays: Mapping[str, NDArray], call: _Call) -> Any:
    """Find the units that hold a number, in the first input that has units; else all."""
    for name, array in arrays.items():
        dims = call.inputs[name]
        if "unit" in dims:
            others = tuple(axis for axis, dim in enumerate(dims) if dim != "unit")
            return ~np.isnan(array).all(axis=others)
    return np.True_


def _unpacked(packed: Any, dims: Sequence[str], call: _Call) -> dict[str, xr.Variable]:
    variables, start = {}, 0
    for name, output in call.outputs.items():
        shape = _shape(output, call)
        stop = start + math.prod(shape)
        data = packed[..., start:stop] if shape else packed[..., start]
        if len(shape) > 1:
            data = data.reshape((*packed.shape[:-1], *shape))
        if output.dtype == "bool":
            data = data == 1
        own = [dim for dim in output.dims if dim != call.along]
        variables[name] = xr.Variable([*dims, *own], data, output.attrs)
        start = stop
    return variables


def check_result(result: Any, variables: Mapping[str, Sequence[str]], *, argument: str) -> None:
    """Check that a result has variables, each with certain dimensions; `argument` is its name."""
    if not isinstance(result, xr.Dataset):
        raise InputError(f"{argument}: expected an xarray Dataset, found {type(result).__name__}")
    for name, dims in variables.items():
        if name not in result.data_vars:
            raise InputError(f"{argument}: no variable {name!r}; found: {listed(result.data_vars)}")
        for dim in dims:
            if dim not in result[name].dims:
                raise InputError(
                    f"{argument}: {name!r} has no dimension {dim!r}; "
                    f"found: {listed(result[name].dims)}"
                )
