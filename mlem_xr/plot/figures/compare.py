"""Two profiles side by side, and their difference."""

from collections.abc import Iterable
from typing import Any, Literal

import holoviews as hv
import xarray as xr

from mlem_xr.plot.errors import Errorbar, Summary, summarized
from mlem_xr.plot.figures.feature_importance import UNITS, Units, importance_of
from mlem_xr.plot.frames import features_to_draw, refuse
from mlem_xr.plot.lines import AXES, Profile, draw_profile, value_limits
from mlem_xr.plot.looks import Looks, Palette, Rename, looks_of_features
from mlem_xr.schema import InputError, check_text, choose, leading_dims, listed, values_of


def compare(
    first: xr.Dataset,
    second: xr.Dataset,
    *,
    names: tuple[str, str] | None = None,
    x: Literal["layer", "step"] = "layer",
    top: int = 4,
    features: Iterable[str] | None = None,
    units: Units = "mse",
    errorbar: Errorbar = "auto",
    palette: Palette = None,
    rename: Rename = None,
) -> hv.Layout:
    """Draw two profiles of importance side by side, and the first minus the second.

    All three have the same features, in the same looks; the profiles share their axis. Only layers
    (or steps) and features that both have are drawn, and layers are matched by their number. Where
    both have the same seeds, the difference is taken seed by seed. With one seed, the difference
    has no interval: both are of the same sentences, so it does not follow from those of the two.

    Parameters
    ----------
    first, second : xr.Dataset
        What `mlem_xr.multivariate_importance` returns, such as for two models, poolings or
        distances. Dimensions other than seed, the axis and feature must be the same in both.
    names : (str, str), optional
        What to call the two; by default what tells their coordinates apart.
    x, top, features, units, errorbar, palette, rename
        As for `feature_importance`; the axes are linear.

    Returns
    -------
    hv.Layout
        Three figures as of `feature_importance`; in the last one, `value` is the difference.

    Raises
    ------
    InputError
        If the two share no layer or no feature, have other dimensions, or an argument is not
        possible.

    Examples
    --------
    >>> def profile(*values):
    ...     data = {"importance": (("layer", "feature"), [[value] for value in values])}
    ...     return xr.Dataset(data, coords={"layer": [1, 2], "feature": ["tense"]})
    >>> figure = compare(profile(0.5, 0.25), profile(0.25, 0.25), names=("old", "new"))
    >>> list(figure)[2].Points.I["tense"].dframe().value.tolist()
    [0.25, 0.0]
    """
    x, units = choose("x", x, AXES), choose("units", units, UNITS)
    sources = {"first": first, "second": second}
    given = [_values(result, units, x, argument) for argument, result in sources.items()]
    called = _names(names, *(values for values, _ in given))
    a, b = (_without_labels(values, x) for values, _ in given)
    if set(a.dims) != set(b.dims):
        raise InputError(f"second: it has the dimensions {b.dims}, first has {a.dims}; select one")
    same_seeds = "seed" in a.dims and a["seed"].equals(b["seed"])
    kept = [d for d in a.dims if d != "seed" or same_seeds]
    a, b = xr.align(a, b, join="inner", exclude={"seed"} - set(kept))
    if not a.size:
        raise InputError("second: it has no labels in common with first; nothing to compare")
    difference = a - b if same_seeds or "seed" not in a.dims else a.mean("seed") - b.mean("seed")
    # Both are of the same sentences: from the error of each does not follow that of the difference.
    errors = [v if v is None else _without_labels(v, x).reindex_like(a) for _, v in given] + [None]
    summaries = [
        summarized(v.rename("importance"), error, errorbar)
        for v, error in zip((a, b, difference), errors, strict=True)
    ]
    look = looks_of_features(first, palette, rename)
    look = Looks(
        tuple(dict.fromkeys([*look.order, *looks_of_features(second).order])),
        look.colors,
        look.own,
        look.names,
    )
    means = xr.concat([summary.table["mean"] for summary in summaries[:2]], "side")
    chosen, note = features_to_draw(means, top, features, within=(x,))
    common = _common_limits(summaries[:2], chosen)
    titles = (*called, f"{called[0]} − {called[1]}")
    figures = []
    for i, (summary, values) in enumerate(zip(summaries, (a, b, difference), strict=True)):
        figures.append(
            draw_profile(
                Profile(
                    summary=summary._replace(
                        note=", ".join(filter(None, (titles[i], note, summary.note)))
                    ),
                    source=values.rename("importance"),
                    name="importance",
                    label=UNITS[units],
                    x=x,
                    by="feature",
                    lines=chosen,
                    looks=look,
                    band=common if i < 2 else None,
                    baseline=0.0 if i == 2 else None,
                )
            )
        )
    return hv.Layout(figures).cols(3)


def _values(
    result: xr.Dataset, units: Units, x: str, argument: str
) -> tuple[xr.DataArray, xr.DataArray | None]:
    try:
        values, std_error = importance_of(result, units, x, "feature")
    except InputError as error:
        raise InputError(f"{argument}: {str(error).removeprefix('result: ')}") from None
    refuse(values, ["unit", "k"], "select one")
    return values, std_error


def _without_labels(values: xr.DataArray, x: str) -> xr.DataArray:
    """Drop what has one label, which may be another in the other result."""
    values = values.squeeze(
        [d for d in values.dims if values.sizes[d] == 1 and d not in (x, "feature")]
    )
    return values.drop_vars([name for name in values.coords if name not in values.dims])


def _names(names: Any, a: xr.DataArray, b: xr.DataArray) -> tuple[str, str]:
    if names is not None:
        found = [check_text("names", name) for name in values_of("names", names)]
        if len(found) != 2:
            raise InputError(f"names: found {listed(found)}; expected two")
        return found[0], found[1]
    for dim in leading_dims(a.coords):
        labels = [v[dim].values.reshape(-1) for v in (a, b) if dim in v.coords]
        if len(labels) == 2 and all(v.size == 1 for v in labels) and labels[0] != labels[1]:
            return str(labels[0][0]), str(labels[1][0])
    return "first", "second"


def _common_limits(summaries: list[Summary], chosen: list) -> tuple[float, float]:
    ends = []
    for summary in summaries:
        table = summary.table
        if summary.seeds is not None:
            table = table.assign(seeds=summary.seeds)
        ends.append(value_limits(table.sel(feature=chosen), False))
    return min(low for low, _ in ends), max(high for _, high in ends)
