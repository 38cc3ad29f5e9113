"""Multivariate importance over the best units of a layer."""

from collections.abc import Iterable
from typing import Any

import xarray as xr

from mlem_xr.cells import map_cells
from mlem_xr.explain import explain_top_units, output_size
from mlem_xr.importance import ALPHAS, label_outputs, make_codes, make_settings
from mlem_xr.schema import InputError, check_integer, choose

SCORES = ("r2", "r", "mse", "mae")
"""Scores that units can be ranked by; the smallest `mse` and `mae` come first."""


def top_unit_importance(
    activations: xr.Dataset,
    univariate: xr.Dataset,
    *,
    by: str = "r2",
    k: int | Iterable[int],
    distance: str = "euclidean",
    min_max: bool = True,
    zscore: bool = False,
    conditional: bool | str = False,
    features: Iterable[str] | None = None,
    folds: str = "pairs",
    random_state: int = 0,
    alphas: Iterable[float] = ALPHAS,
    mae: bool = False,
) -> xr.Dataset:
    """Explain the distances over the k best units of each layer, for every k in one sweep.

    The units of a layer are ranked by a univariate score; the neural distance is that over the
    first k of them, and everything else is as in `multivariate_importance`. Squared Euclidean
    distances of the ranked units add up, so that a larger k costs only its additional units.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    univariate : xr.Dataset
        What `univariate_importance` returned for the same cells and units.
    by : str
        "r2", "r" (largest first), "mse", "mae" (smallest first), or the name of a feature (the
        largest importance first). Units without scores, such as constant ones, are left out.
    k : int or iterable of int
        Numbers of units. All units that equal the k-th are in too; a layer of fewer units has all
        of them in.
    distance, min_max, zscore, conditional, features, folds, random_state, alphas, mae
        As for `multivariate_importance`.

    Returns
    -------
    xr.Dataset
        As `multivariate_importance`, with `k` (int64) after `layer`; and `chosen` bool
        (..., layer, k, unit), the units that are in. Lazy if `activations` or `univariate` is.

    Raises
    ------
    InputError
        If `by` or an option is unknown, `k` is not positive, or `univariate` has other labels or
        is of other activations; when computed, if a cell holds NaN or infinite values.

    Examples
    --------
    >>> import numpy as np
    >>> import mlem_xr as mx
    >>> rng = np.random.default_rng(0)
    >>> plural = np.arange(40) % 2
    >>> units = rng.normal(size=(40, 5))
    >>> units[:, 3] += 5 * plural
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)}, coords={"plural": ("sentence", plural)}
    ... )
    >>> best = top_unit_importance(data, mx.univariate_importance(data), k=[1, 2])
    >>> best.chosen.sel(k=1).values.tolist()
    [False, False, False, True, False]
    """
    settings = make_settings(
        distance, min_max, zscore, conditional, folds, random_state, alphas, mae
    )
    codes = make_codes(activations, features)
    counts = _counts(k)
    score = _score(univariate, by)
    _check_labels(activations, score)
    n_outputs = output_size(codes.sizes["feature"], mae=settings.mae)
    packed = map_cells(
        explain_top_units,
        activations,
        codes.drop_vars("feature"),
        unit_values=score.drop_vars(set(score.coords) - set(score.dims)),
        output={"k": len(counts), "output": n_outputs + 1},
        settings=settings,
        k=counts,
    ).assign_coords(k=counts)
    result = label_outputs(
        packed.isel(output=slice(0, n_outputs)),
        activations,
        codes,
        settings,
        "top_unit_importance",
        by=by,
        k=counts,
        univariate=univariate.attrs.get("settings"),
    )
    chosen = (score >= packed.isel(output=-1)).transpose(*packed.dims[:-1], "unit")
    about = {"long_name": f"whether a unit is among the k best by {by}"}
    result = result.assign(chosen=(chosen.dims, chosen.data, about))
    names = [str(name) for name, c in activations.coords.items() if c.dims == ("unit",)]
    return result.assign_coords({name: activations[name] for name in names})


def _counts(k: Any) -> list[int]:
    one = not isinstance(k, Iterable) or getattr(k, "shape", None) == ()
    numbers = [k] if one else list(k)
    counts = {check_integer("k", n, at_least=1, below=2**31) for n in numbers}
    if not counts:
        raise InputError("k: found no number; expected positive integers")
    return sorted(counts)


def _score(univariate: xr.Dataset, by: str) -> xr.DataArray:
    """Return a score per unit, larger ones being better."""
    known = [name for name in SCORES if name in univariate]
    features = univariate["feature"].values.tolist() if "feature" in univariate else []
    choose("by", by, [*known, *features])
    if by in known:
        return -univariate[by] if by in ("mse", "mae") else univariate[by]
    importance = univariate["importance"].sel(feature=by, drop=True)
    return importance.where(univariate["mse"].notnull()) if "mse" in known else importance


def _check_labels(activations: xr.Dataset, score: xr.DataArray) -> None:
    activation = activations["activation"]
    for dim in {*activation.dims, *score.dims} - {"sentence"}:
        same = activation.sizes.get(dim) == score.sizes.get(dim)
        if same and dim in activation.coords and dim in score.coords:
            same = activation.indexes[dim].equals(score.indexes[dim])
        if not same:
            raise InputError(
                f"univariate: its labels along {dim!r} are not those of the activations; "
                "expected what univariate_importance returned for them"
            )
    both = "fingerprint" in activations.coords and "fingerprint" in score.coords
    if both and not (activations["fingerprint"] == score["fingerprint"]).all():
        raise InputError(
            "univariate: the activations have been recorded again since it was made; "
            "expected what univariate_importance returned for them"
        )
