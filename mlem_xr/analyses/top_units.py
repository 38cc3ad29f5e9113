"""Importance of the features for the distances over the best units of a layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mlem_xr.analyses.base import Analysis, Output, Source, check_result
from mlem_xr.analyses.importance import (
    ALPHAS,
    IMPORTANCE_INPUTS,
    WITHOUT_ITEMS,
    Conditional,
    Folds,
    Groups,
    ImportanceOptions,
    Scale,
    labels_of,
    outputs,
    warn_of_useless_features,
    with_items,
)
from mlem_xr.analyses.options import integer, option, sorted_tuple
from mlem_xr.kernels.distances import Function
from mlem_xr.kernels.explain import explain_top_units
from mlem_xr.schema import InputError, check_dataset, check_text, choose

SCORES = ("r2", "r", "mse", "mae")
"""Scores that units can be ranked by; the smallest `mse` and `mae` come first."""

_FEATURE = "feature:"
"""What stands before the name of a feature that has the name of a score."""


@dataclass(frozen=True, kw_only=True)
class TopUnitOptions(ImportanceOptions):
    """The options of an analysis of the best units."""

    by: str = option("r2", "What units are ranked by: a score, or a feature.", check=check_text)
    k: int | Iterable[int] = option(
        help="How many units.", check=sorted_tuple(integer(at_least=1, below=2**31)), each=int
    )


def _scores(univariate: xr.Dataset, options: TopUnitOptions) -> Mapping[str, xr.DataArray]:
    """Return a score per unit, larger ones being better."""
    check_dataset("univariate", univariate)
    by = options.by
    scores = [name for name in SCORES if name in univariate]
    features = univariate["feature"].values.tolist() if "feature" in univariate else []
    marked = [_FEATURE + name if name in scores else name for name in features]
    if by in SCORES and by not in (*scores, *marked):
        check_result(univariate, {by: ["unit"]}, argument="univariate")
    choose("by", by, [*scores, *marked])
    variable = by if by in scores else "importance"
    check_result(univariate, {variable: ["unit"]}, argument="univariate")
    if by in scores:
        return {"score": -univariate[by] if by in ("mse", "mae") else univariate[by]}
    score = univariate["importance"].sel(feature=features[marked.index(by)], drop=True)
    return {"score": score.where(univariate["mse"].notnull()) if "mse" in scores else score}


def _check(arrays: Mapping[str, xr.DataArray], options: TopUnitOptions) -> None:
    activation, score = arrays["activation"], arrays["score"]
    for dim in {*activation.dims, *score.dims} - {"sentence"}:
        same = activation.sizes.get(dim) == score.sizes.get(dim)
        if same and dim in activation.coords and dim in score.coords:
            same = np.array_equal(activation[dim].values, score[dim].values)
        if not same:
            raise InputError(
                f"univariate: its labels along {dim!r} are not those of the activations; "
                "expected what univariate_importance returned for them"
            )
    both = "fingerprint" in activation.coords and "fingerprint" in score.coords
    if both and not (activation["fingerprint"] == score["fingerprint"]).all():
        raise InputError(
            "univariate: the activations have been recorded again since it was made; "
            "expected what univariate_importance returned for them"
        )
    warn_of_useless_features(arrays, options)


TOP_UNITS = Analysis(
    name="top_unit_importance",
    help="Explain the distances over the best units of each layer.",
    command="top-units",
    function=explain_top_units,
    inputs={"activation": IMPORTANCE_INPUTS["activation"], "score": ("unit",)}
    | {name: dims for name, dims in IMPORTANCE_INPUTS.items() if name != "activation"},
    outputs=lambda options: {
        **outputs(options, "k"),
        "chosen": Output(("k", "unit"), "whether a unit is among the k best", dtype="bool"),
    },
    options=TopUnitOptions,
    labels=lambda options, features: labels_of(options, features) | {"k": options.k},
    check=_check,
    source=Source("univariate", _scores, "univariate_importance"),
    with_items=with_items,
    without_items=WITHOUT_ITEMS,
    original="Multivariate",
)


def top_unit_importance(
    activations: xr.Dataset,
    univariate: xr.Dataset,
    *,
    by: str = "r2",
    k: int | Iterable[int],
    distance: str | Function = "euclidean",
    target: str = "square",
    min_max: bool | None = None,
    zscore: bool = False,
    scale: Scale = "linear",
    conditional: Conditional = False,
    features: Iterable[str] | None = None,
    groups: Groups | None = None,
    items: Mapping[str, str] | None = None,
    folds: Folds = "pairs",
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
        What `univariate_importance` returned for the same representations and units.
    by : str
        "r2", "r" (largest first), "mse", "mae" (smallest first), or a feature (the largest
        importance first; "feature:r2" if its name is that of a score). Units without scores, such
        as constant ones, are left out.
    k : int or iterable of int
        Numbers of units. All units that equal the k-th are in too; a layer of fewer units has all
        of them in.
    distance, target, min_max, zscore, scale, conditional, groups, mae
        As for `multivariate_importance`.
    features, items, folds, random_state, alphas
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
        is of other activations; when computed, if a representation holds NaN or infinite values.

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
    options = TopUnitOptions.taken_from(locals())
    return TOP_UNITS(activations, options, features=features, items=items, source=univariate)
