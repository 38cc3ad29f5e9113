"""What R2 is made of: every subset of the features, their shares, and the feature ceiling."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.importance import (
    ALPHAS,
    INPUTS,
    Folds,
    MetricOptions,
    Per,
    Scale,
    check_of_one_unit,
    warn_of_constant_distances,
)
from mlem_xr.analyses.options import integer, option
from mlem_xr.kernels import decompose as kernel
from mlem_xr.kernels.distances import Function
from mlem_xr.schema import InputError, shown

Method = Literal["shapley", "sampled"]

BOUNDS = ["lower", "upper"]

NO_FEATURE = "none"
"""Label of the subset without features."""


@dataclass(frozen=True, kw_only=True)
class DecompositionOptions(MetricOptions):
    """The options of a decomposition."""

    per: Per = option(
        "layer", "Decompose the distances over all units of a layer, or over each unit alone."
    )
    method: Method = option(
        "shapley", "Count all orders of up to 14 features, or draw some: shapley, or sampled."
    )
    n_draws: int = option(
        250,
        "How many orders are drawn, each with its reverse, where they are.",
        check=integer(at_least=2, below=1_000_001),
        flag="draws",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_of_one_unit(self)


def _outputs(options: DecompositionOptions) -> dict[str, Output]:
    own = ("unit",) if options.per == "unit" else ()
    feature, score = (*own, "feature"), "R2 on held-out pairs"
    return {
        "share": Output(feature, f"Shapley value of the feature in {score}"),
        "share_std_error": Output(
            feature, "standard error of the share over drawn orders; NaN where all are counted"
        ),
        "unique": Output(feature, f"{score} that is lost without the feature"),
        "alone": Output(feature, f"{score} that is gained by the feature alone"),
        "common": Output(feature, f"{score} of the feature alone, less what is unique to it"),
        "r2": Output((*own, "subset"), f"{score} of the metric with the features of the subset"),
        "r2_ceiling": Output(
            (*own, "bound"), f"{score} of the best function of the feature distances"
        ),
    }


def _labels(options: DecompositionOptions, features: Sequence[str]) -> dict[str, list[str]]:
    subsets = kernel.named_subsets(len(features), kernel.is_sampled(len(features), options))
    return {
        "bound": BOUNDS,
        "subset": ["+".join(features[k] for k in subset) or NO_FEATURE for subset in subsets],
    }


def _check(arrays: Mapping[str, xr.DataArray], options: DecompositionOptions) -> None:
    names = arrays["codes"]["feature"].values.tolist()
    known: set[str] = set()
    for label in _labels(options, names)["subset"]:
        if label in known:
            raise InputError(
                f"features: found {shown(names)}, of which two subsets would be called {label!r}; "
                "expected other names"
            )
        known.add(label)
    warn_of_constant_distances(arrays, "share 0")


DECOMPOSITION = Analysis(
    name="decompose",
    help="Say what each feature contributes to R2, and how large R2 could be.",
    command="decompose",
    function=kernel.decompose,
    inputs={name: dims for name, dims in INPUTS.items() if name != "items"},
    outputs=_outputs,
    options=DecompositionOptions,
    labels=_labels,
    check=_check,
    leading="share",
)


def decompose(
    activations: xr.Dataset,
    *,
    per: Per = "layer",
    method: Method = "shapley",
    n_draws: int = 250,
    distance: str | Function = "euclidean",
    target: str = "square",
    min_max: bool | None = None,
    zscore: bool = False,
    scale: Scale = "linear",
    features: Iterable[str] | None = None,
    folds: Folds = "pairs",
    random_state: int = 0,
    alphas: Iterable[float] = ALPHAS,
) -> xr.Dataset:
    """Decompose R2 into the shares of the features, and say how large it could be.

    The metric is fitted and scored with every subset S of the F features, as
    `multivariate_importance` (or, per unit, `univariate_importance`) does with all of them: the
    penalty is chosen for each subset anew, and R2(S) is the mean over the held-out folds. From
    these, with k a feature and R2(none) the score of the mean target of the training pairs, ::

        share_k  = sum over S without k of |S|! (F - |S| - 1)! / F!  (R2(S + k) - R2(S))
        unique_k = R2(all) - R2(all - k)
        alone_k  = R2(k) - R2(none)
        common_k = alone_k - unique_k

    The share is the feature's Shapley value: what it adds to R2, on average over all orders in
    which the features may be added one after another (in regression, this is known as LMG). Shares
    add up to R2(all) - R2(none); two features with the same distances have the same share, and one
    that differs in no pair has 0. `unique` and `alone` are its gains as the last and as the first
    of all. `common` is, in a commonality analysis, the sum of all parts that the feature has in
    common with others; it is negative where features explain more together than each alone
    (suppression). On held-out pairs, any of them may be negative: a feature that only adds noise
    makes predictions worse.

    The feature ceiling. Whatever a function of the feature distances predicts, also one with
    interactions or weights below 0, it predicts the same for all pairs of one covariate pattern (a
    row of feature distances), and nothing is better for these than their mean target. Its R2 is
    given for the means of the training pairs (`lower`; the mean of all of these where a pattern has
    none there), which is reached, and for those of the held-out pairs themselves (`upper`), which
    cannot be surpassed. What R2(all) lacks of the ceiling is due to the form of the metric; what
    the ceiling lacks of 1 is not in these features. With few pairs per pattern `upper` is too large
    and `lower` too small, which may even be below R2(all).

    All of it goes over the covariate patterns of the pairs, as the ceiling needs them: with folds
    of sentences too, where importances of squared distances visit no pair. The sums over pairs are
    taken once; a subset of 9 features then takes some microseconds. Where numeric features and
    vectors have so many distances that no two pairs are alike, there are no patterns: the ceiling
    is NaN, and all else is taken from single pairs.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    per : {"layer", "unit"}
        Decompose the distances over all units of a layer together, or over each unit alone.
    method : {"shapley", "sampled"}
        `shapley`: exact shares of up to 14 features, from all 2^F subsets. Of more, or with
        `sampled`, they are means over orders of the features that are drawn at random.
    n_draws : int
        How many orders are drawn, each together with its reverse (antithetic), where they are.
    distance, target, min_max, zscore, scale, features, folds, alphas
        As for `multivariate_importance`; with ``per="unit"``, as for `univariate_importance`.
    random_state : int
        Seed of the folds, and of the orders.

    Returns
    -------
    xr.Dataset
        Lazy if `activations` is; all float64, NaN where nothing was recorded and where all
        distances are the same. `share`, `unique`, `alone`, `common` ([..., unit,] feature);
        `share_std_error`, the Monte Carlo error of drawn orders, which says nothing about other
        sentences (NaN where all orders are counted). `r2` ([..., unit,] subset): of every subset,
        labeled by its features in their order, as in "tense+number", and "none"; where orders are
        drawn, of those with no feature, one, all but one, and all. `r2_ceiling` ([..., unit,]
        bound): "lower" and "upper".

    Raises
    ------
    InputError
        If an option is unknown or means nothing in one dimension, or `activations` is not what it
        should be; when computed, if a representation holds NaN or infinite values (the message
        names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its share is 0.

    References
    ----------
    Shapley 1953, A value for n-person games, in: Contributions to the Theory of Games II, 307-317.
    Gromping 2007, Estimators of relative importance in linear regression based on variance
    decomposition, Am. Stat. 61, 139-147 (LMG). Seibold and McPhee 1979, Commonality analysis: a
    method for decomposing explained variance in multiple regression analyses, Hum. Commun. Res. 5,
    355-365. Castro, Gomez and Tejada 2009,
    Polynomial calculation of the Shapley value based on sampling, Comput. Oper. Res. 36, 1726-1730.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> plural, past = rng.integers(0, 2, (2, 40))
    >>> units = rng.normal(size=(40, 5))
    >>> units[:, 0] += 4 * plural
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)},
    ...     coords={"plural": ("sentence", plural), "past": ("sentence", past)},
    ... )
    >>> result = decompose(data)
    >>> result.subset.values.tolist()
    ['none', 'plural', 'past', 'plural+past']
    >>> bool(result.share.sel(feature="plural") > 0.3)
    True
    >>> gained = result.r2.sel(subset="plural+past") - result.r2.sel(subset="none")
    >>> bool(np.isclose(result.share.sum(), gained))
    True
    """
    options = DecompositionOptions.taken_from(locals())
    return DECOMPOSITION(activations, options, features=features)
