"""Importance of the features for the distances over all units of a layer."""

from collections.abc import Iterable

import xarray as xr

from mlem_xr.analyses.base import Analysis
from mlem_xr.analyses.importance import (
    ALPHAS,
    INPUTS,
    LABELS,
    Conditional,
    Folds,
    ImportanceOptions,
    outputs,
    warn_of_useless_features,
)
from mlem_xr.kernels.explain import explain_layer

MULTIVARIATE = Analysis(
    name="multivariate_importance",
    help="Explain the distances over all units of each layer.",
    command="multivariate",
    function=explain_layer,
    inputs=INPUTS,
    outputs=outputs,
    options=ImportanceOptions,
    labels=lambda options: LABELS,
    check=warn_of_useless_features,
    original="Multivariate",
)


def multivariate_importance(
    activations: xr.Dataset,
    *,
    distance: str = "euclidean",
    target: str = "square",
    min_max: bool = True,
    zscore: bool = False,
    conditional: Conditional = False,
    features: Iterable[str] | None = None,
    folds: Folds = "pairs",
    random_state: int = 0,
    alphas: Iterable[float] = ALPHAS,
    mae: bool = False,
) -> xr.Dataset:
    """Explain the distances over all units of a layer by the features of the sentences.

    For each pair of sentences with neural distance d, the target ``y = ((d - m) / (M - m))^2``,
    with m and M the smallest and largest distance of all pairs, is predicted as ``b + w.x`` from
    the feature distances x with w >= 0, by ridge regression with two-fold cross-validation. The
    importance of feature k is the mean increase of the squared error on held-out pairs over all
    permutations of x_k, computed exactly from the moments of y per covariate pattern.

    Errors and p-values treat pairs as independent, as the original program does. They are not: two
    pairs that share a sentence are related. Read small p-values with that in mind.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str
        A metric of `sklearn.metrics.pairwise_distances`, or `norm_diff`: the absolute difference
        of the Euclidean norms.
    target : {"square", "none"}
        What is predicted: the square of the distance, or the distance itself.
    min_max : bool
        Whether the distances of all pairs are scaled to [0, 1] before they become targets.
    zscore : bool
        Whether every unit is brought to mean 0 and standard deviation 1 over the sentences first.
    conditional : {False, True, "exact"}
        Whether only the part of a feature that the other features do not predict is permuted.
        True: a random forest predicts it (10 trees; the depth is chosen among 2, 5 and 10), as in
        the original program. "exact": its mean over the pairs that agree in all other features.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.
    folds : {"pairs", "sentences"}
        `pairs`: the folds split the pairs (the original protocol). `sentences`: they split the
        sentences, so that no sentence is on both sides: a fold is fitted on pairs of its training
        sentences and scored on pairs of held-out sentences.
    random_state : int
        Seed of the splits.
    alphas : iterable of float
        Ridge penalties of at least 1e-6; the one with the smallest squared error on validation
        pairs is chosen, the smaller one in a tie.
    mae : bool
        Whether to compute the mean absolute error too, which costs a second pass over the pairs.

    Returns
    -------
    xr.Dataset
        Lazy if `activations` is; all float64, NaN where nothing was recorded. `importance` and
        `std_error` (..., layer, feature) in squared units of y; `p_value` (..., layer, feature);
        `weight` (..., layer, fold, feature); `alpha` and `intercept` (..., layer, fold); `r2`,
        `r`, `mse`, `variance` of the target (so that importance / variance is a drop of R2) and,
        with `mae=True`, `mae` (..., layer), means over the folds.

    Raises
    ------
    InputError
        If an option is unknown or `activations` is not what it should be; when computed, if a
        representation holds NaN or infinite values (the message names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its importance is 0 and its p-value 1.

    References
    ----------
    Jalouzot et al. 2024, Metric-Learning Encoding Models, arXiv 2402.11608.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> plural = np.arange(40) % 2
    >>> units = rng.normal(size=(40, 5)) + 3 * plural[:, None]
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)},
    ...     coords={"plural": ("sentence", plural)},
    ... )
    >>> result = multivariate_importance(data)
    >>> bool(result.importance.sel(feature="plural") > 0.01)
    True
    """
    return MULTIVARIATE(activations, ImportanceOptions.taken_from(locals()), features=features)
