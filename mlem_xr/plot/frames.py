"""From labeled arrays to the frames of a figure: what is drawn, what slides, what is fixed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from scipy import stats

from mlem_xr.schema import (
    FINAL,
    FINAL_STEP,
    REPRESENTATION,
    InputError,
    check_integer,
    choose,
    listed,
    plain_value,
)

CONFIDENCE = 0.99
"""Coverage of the intervals over seeds."""


def variable(result: xr.Dataset, name: str, *, argument: str = "result") -> xr.DataArray:
    """Return a variable of a result, computed once and with a value in it."""
    if not isinstance(result, xr.Dataset):
        raise InputError(f"{argument}: expected an xarray Dataset, found {type(result).__name__}")
    if name not in result.data_vars:
        raise InputError(f"{argument}: no variable {name!r}; found: {listed(result.data_vars)}")
    return filled(result[name].compute(), argument=argument)


def filled(values: xr.DataArray, *, argument: str) -> xr.DataArray:
    """Return the values, which must hold at least one number."""
    if not bool(values.notnull().any()):
        raise InputError(f"{argument}: {values.name!r} holds no values, only NaN; nothing to draw")
    return values


def refuse(values: xr.DataArray, dims: Iterable[str], advice: str) -> None:
    """Raise if the values have one of the dimensions, with advice on what to do instead."""
    for dim in dims:
        if values.sizes.get(dim, 1) > 1:
            raise InputError(f"result: {values.name!r} has the dimension {dim!r}; {advice}")


def expanded(values: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return the values with these dimensions, of length one where a selection removed them."""
    for dim in dims:
        if dim not in values.dims:
            values = values.expand_dims(dim if dim in values.coords else {dim: [dim]})
    return values.assign_coords(
        {dim: np.arange(values.sizes[dim]) for dim in dims if dim not in values.coords}
    )


def over_seeds(values: xr.DataArray) -> xr.Dataset:
    """Return `mean` over the seeds that hold a value, and `half`, half the width of its interval.

    The interval is Student's t; `half` is NaN where fewer than two seeds hold a value.
    """
    if values.sizes.get("seed", 1) < 2:
        mean = values.squeeze("seed") if "seed" in values.dims else values
        return xr.Dataset({"mean": mean, "half": xr.full_like(mean, np.nan)})
    count = values.count("seed")
    deviation = values.where(count > 1, 0.0).std("seed", ddof=1)
    quantile = xr.zeros_like(deviation) + stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    half = (quantile * deviation / np.sqrt(count.where(count > 1))).where(count > 1)
    return xr.Dataset({"mean": values.mean("seed"), "half": half})


def describe(dim: str, value: Any) -> str:
    """Return the readable form of a coordinate's value: step -1 is "final", 20000 is "20,000"."""
    value = plain_value(value)
    if dim == "step":
        return FINAL if value == FINAL_STEP else f"{value:,}"
    return str(value)


def fixed(values: xr.DataArray, drawn: tuple[str, ...]) -> str:
    """Return a title that names the coordinates which have one value in the whole figure."""
    named = dict.fromkeys((*REPRESENTATION, *map(str, values.dims)))
    single = [
        name
        for name in named
        if name in values.coords and values[name].size == 1 and name not in drawn
    ]
    parts = [
        ("" if name == "model" else f"{name} ") + describe(name, values[name].values.reshape(-1)[0])
        for name in single
    ]
    return ", ".join(parts)


def sliders(values: xr.DataArray | xr.Dataset, drawn: tuple[str, ...]) -> list[str]:
    """Return the dimensions that are not drawn and have more than one value."""
    return [str(dim) for dim in values.sizes if values.sizes[dim] > 1 and str(dim) not in drawn]


def frames(
    values: xr.Dataset, name: str, drawn: tuple[str, ...]
) -> Iterator[tuple[tuple, xr.Dataset]]:
    """Yield key and values of every frame in which the variable `name` holds a number."""
    values = values.squeeze([d for d in values.sizes if values.sizes[d] == 1 and d not in drawn])
    dims = sliders(values, drawn)
    values = values.assign_coords({dim: values[dim] for dim in dims})
    for index in np.ndindex(*(values.sizes[dim] for dim in dims)):
        frame = values.isel(dict(zip(dims, index, strict=True)))
        if bool(frame[name].notnull().any()):
            yield tuple(frame[dim].item() for dim in dims), frame


def figure_of(
    values: xr.Dataset, name: str, drawn: tuple[str, ...], draw: Callable[[xr.Dataset], Any]
) -> Any:
    """Draw every frame; return the only one, or a HoloMap whose keys are the other coordinates."""
    drawings = {key: draw(frame) for key, frame in frames(values, name, drawn)}
    dims = sliders(values, drawn)
    if not dims:
        return drawings[()]
    dimensions = [
        hv.Dimension(dim, value_format=lambda value, dim=dim: describe(dim, value)) for dim in dims
    ]
    return hv.HoloMap(drawings, dimensions, sort=False)


def chosen(means: xr.DataArray, dim: str, top: int, names: Iterable[Any] | None) -> list[Any]:
    """Return the labels of `dim` to draw: those named, or the `top` ones with the largest value."""
    known = means[dim].values.tolist()
    if names is not None:
        wanted = [choose(f"{dim}s", name, known) for name in dict.fromkeys(names)]
        if not wanted:
            raise InputError(f"{dim}s: an empty list; expected some of {known}")
        return wanted
    top = check_integer("top", top, at_least=1)
    largest = means.max([d for d in means.dims if d != dim]).values
    order = np.argsort(-largest, kind="stable")[: int(np.isfinite(largest).sum())]
    return [known[i] for i in order[:top]]
