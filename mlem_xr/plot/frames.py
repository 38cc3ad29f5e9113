"""From labeled arrays to the frames of a figure: what is drawn, what slides, what is fixed.

A frame without values stays in its place and says why it is empty, so that what lies beside or
below one another belongs together.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from mlem_xr.plot.looks import Looks
from mlem_xr.schema import (
    InputError,
    among,
    check_dataset,
    check_dimensions,
    check_integer,
    leading_dims,
    listed,
    several,
)

EMPTY = "Empty"
"""Group of a frame without values; the last part of its label says why there are none."""


def variable(result: xr.Dataset, name: str, *, argument: str = "result") -> xr.DataArray:
    """Return a variable of a result, computed once and with a value in it."""
    check_dataset(argument, result)
    if name not in result.data_vars:
        raise InputError(f"{argument}: no variable {name!r}; found: {listed(result.data_vars)}")
    return filled(result[name].compute(), argument=argument)


def filled(values: xr.DataArray, *, argument: str) -> xr.DataArray:
    """Return the values, which must be numbers, and at least one of them there."""
    if values.dtype.kind not in "fiu":
        raise InputError(f"{argument}: {values.name!r} has dtype {values.dtype}; expected numbers")
    check_dimensions(argument, values)
    if bool(np.isinf(values).any()):
        raise InputError(f"{argument}: {values.name!r} holds infinite values; expected finite ones")
    if not bool(values.notnull().any()):
        raise InputError(f"{argument}: {values.name!r} holds no values, only NaN; nothing to draw")
    return values


def errors_of(result: xr.Dataset, name: str, *dims: str) -> xr.DataArray | None:
    """Return the standard errors of this name, if there are any, with these dimensions."""
    if name not in result or not bool(result[name].notnull().any()):
        return None
    return expanded(variable(result, name), *dims)


def refuse(values: xr.DataArray, dims: Iterable[str], advice: str) -> None:
    """Raise if the values have one of the dimensions, with advice on what to do instead."""
    for dim in dims:
        if values.sizes.get(dim, 1) > 1:
            raise InputError(f"result: {values.name!r} has the dimension {dim!r}; {advice}")


def expanded(values: Any, *dims: str) -> Any:
    """Return the values with these dimensions, of length one where a selection removed them."""
    for dim in dims:
        if dim not in values.dims:
            values = values.expand_dims(dim if dim in values.coords else {dim: [dim]})
    return values.assign_coords(
        {dim: np.arange(values.sizes[dim]) for dim in dims if dim not in values.coords}
    )


def alike(other: xr.DataArray, values: xr.DataArray, *, argument: str) -> xr.DataArray:
    """Return another result at the labels of the values, NaN where it has none.

    What is one label in the values is selected in the other, and seeds are averaged.
    """
    if "seed" in other.dims and ("seed" not in values.dims or argument == "decoding"):
        other = other.mean("seed")
    for dim in [str(dim) for dim in other.dims if dim not in values.dims]:
        label = values.coords.get(dim)
        if label is not None and label.ndim == 0 and bool((other[dim] == label).any()):
            other = other.sel({dim: label.item()}, drop=True)
        elif other.sizes[dim] > 1:
            raise InputError(f"{argument}: it has the dimension {dim!r}; select one label of it")
        else:
            other = other.squeeze(dim, drop=True)
    other = other.reindex({dim: values[dim] for dim in other.dims if dim in values.coords})
    if not bool(other.notnull().any()):
        raise InputError(f"{argument}: none of its labels are those of the result; nothing to draw")
    return other.drop_vars([name for name in other.coords if name not in other.dims])


def fixed(values: xr.DataArray, drawn: tuple[str, ...], looks: Looks) -> str:
    """Return a title that names the coordinates which have one value in the whole figure."""
    single = [name for name, label in values.coords.items() if label.size == 1]
    named = dict.fromkeys([*leading_dims(single), *map(str, values.dims)])
    labels = {
        name: values[name].values.reshape(-1)[0]
        for name in named
        if name in single and name not in drawn
    }
    parts = [
        ("" if name == "model" else f"{looks.name(name)} ") + looks.name(label, name)
        for name, label in labels.items()
        # What has no such dimension was given one, with its name for a label.
        if label != name
    ]
    return ", ".join(parts)


def sliders(values: xr.DataArray | xr.Dataset, drawn: tuple[str, ...]) -> list[str]:
    """Return the dimensions that are not drawn and have more than one value."""
    return [str(dim) for dim in values.sizes if values.sizes[dim] > 1 and str(dim) not in drawn]


def frames(
    values: xr.Dataset, name: str, drawn: tuple[str, ...]
) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Yield labels and values of every frame, also of those in which `name` holds no number."""
    values = values.squeeze([d for d in values.sizes if values.sizes[d] == 1 and d not in drawn])
    dims = sliders(values, drawn)
    values = values.assign_coords({dim: values[dim] for dim in dims})
    for dim in dims:
        # What has no values in any frame, is no part of the figure.
        values = values.isel({dim: values[name].notnull().any(set(values[name].dims) - {dim})})
    for index in np.ndindex(*(values.sizes[dim] for dim in dims)):
        frame = values.isel(dict(zip(dims, index, strict=True)))
        yield {dim: frame[dim].item() for dim in dims}, frame


def figure_of(
    values: xr.Dataset,
    name: str,
    drawn: tuple[str, ...],
    draw: Callable[[xr.Dataset], Any],
    looks: Looks,
    *,
    source: xr.DataArray | None = None,
    empty: str = "",
) -> Any:
    """Draw every frame; return the only one, or a HoloMap whose keys are the other coordinates.

    `source` has the coordinates that say why there are no values, which means over seeds have lost;
    where these do not tell, `empty` does.
    """
    source = values[name] if source is None else source
    found = list(frames(values, name, drawn))
    blanks: dict[str, Any] = {}
    drawings = []
    for labels, frame in found:
        if bool(frame[name].notnull().any()):
            drawings.append(draw(frame))
            continue
        why = _why_empty(source, labels) or empty or "no values"
        if why not in blanks:
            blank = draw(frame)
            title = ", ".join(filter(None, (blank.label, why)))
            blanks[why] = blank.relabel(title, group=EMPTY)
        drawings.append(blanks[why])
    dims = list(found[0][0])
    if not dims:
        return drawings[0]
    shown = {dim: _keys([labels[dim] for labels, _ in found], dim, looks) for dim in dims}
    keys = [tuple(shown[dim][labels[dim]] for dim in dims) for labels, _ in found]
    first = next(i for i, drawing in enumerate(drawings) if drawing.group != EMPTY)
    dimensions = [
        # Selectors would be in the order of the alphabet; the first frame is one with values.
        hv.Dimension(
            (dim, looks.name(dim)), values=list(shown[dim].values()), default=keys[first][i]
        )
        for i, dim in enumerate(dims)
    ]
    return hv.HoloMap(dict(zip(keys, drawings, strict=True)), dimensions, sort=False)


def _keys(labels: list[Any], dim: str, looks: Looks) -> dict[Any, Any]:
    """Return what stands for each label of a slider.

    Numbers in ascending order stay numbers; others are texts, which selectors leave in their order.
    """
    labels = list(dict.fromkeys(labels))
    shown = [looks.name(label, dim) for label in labels]
    ascending = all(isinstance(v, int | float) for v in labels) and labels == sorted(labels)
    plain = ascending and shown == list(map(str, labels))
    if len(set(shown)) < len(shown):
        raise InputError(f"rename: some labels of {dim!r} would have the same name: {shown}")
    return dict(zip(labels, labels if plain else shown, strict=True))


def _why_empty(source: xr.DataArray, labels: dict[str, Any]) -> str:
    """Say why there are no values, as far as the marks of a store's results tell."""
    known = {dim: label for dim, label in labels.items() if dim in source.dims}
    part = source.sel(known)
    recorded, computed = (part.coords.get(name) for name in ("fingerprint", "computed_from"))
    if recorded is not None and bool((recorded == "").all()):
        return "not recorded"
    if computed is not None and bool((computed == "").all()):
        return "not computed"
    if recorded is not None and computed is not None and not bool((recorded == computed).any()):
        return "recorded again since it was computed"
    return ""


def features_to_draw(
    means: xr.DataArray, top: int, names: Iterable[str] | None, within: Iterable[str] = ()
) -> tuple[list[Any], str]:
    """Return the features that a caller named, or the leading ones, and words if there are more."""
    top = check_integer("top", top, at_least=1)
    if names is not None:
        known = means["feature"].values.tolist()
        return several("features", names, among(known), twice=False), ""
    return leading(means, "feature", top, within)


def leading(
    means: xr.DataArray, dim: str, top: int, within: Iterable[str] = ()
) -> tuple[list[Any], str]:
    """Return the leading labels of `dim`, in the order of the data, and words that say so.

    In every panel (each place along the dimensions other than `dim` and `within`) labels are
    ranked by their largest value. A label scores 1 for each panel that it leads, 1/2 for each where
    it is second, and so on; ties go to the larger share of the panel's largest value. So what
    matters in several panels is there, and no panel counts more for its larger scale.
    """
    known = means[dim].values.tolist()
    peaks = means.max([d for d in within if d in means.dims])
    table = peaks.transpose(..., dim).values.reshape(-1, len(known))
    table = table[np.isfinite(table).any(axis=1)]
    heights = np.where(np.isfinite(table), table, -np.inf)
    ranks = np.argsort(np.argsort(-heights, axis=1, kind="stable"), axis=1)
    score = (np.isfinite(heights) * 0.5**ranks).sum(axis=0)
    largest = np.abs(heights.max(axis=1, keepdims=True))
    share = np.where(np.isfinite(heights), heights, 0.0) / np.where(largest > 0, largest, 1.0)
    order = np.lexsort((-share.sum(axis=0), -score))
    there = [i for i in order if np.isfinite(heights[:, i]).any()]
    chosen = [known[i] for i in sorted(there[:top])]
    note = f"top {len(chosen)} of {len(there)} {dim}s" if len(chosen) < len(there) else ""
    return chosen, note
