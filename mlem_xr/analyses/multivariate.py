"""Importance of the features for the distances over all units of a layer."""

from collections.abc import Iterable, Mapping

import xarray as xr

from mlem_xr.analyses.base import Analysis
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
from mlem_xr.kernels.distances import Function
from mlem_xr.kernels.explain import explain_layer

MULTIVARIATE = Analysis(
    name="multivariate_importance",
    help="Explain the distances over all units of each layer.",
    command="multivariate",
    function=explain_layer,
    inputs=IMPORTANCE_INPUTS,
    outputs=outputs,
    options=ImportanceOptions,
    labels=labels_of,
    check=warn_of_useless_features,
    with_items=with_items,
    without_items=WITHOUT_ITEMS,
    original="Multivariate",
)


def multivariate_importance(
    activations: xr.Dataset,
    *,
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
    """Explain the distances over all units of a layer by the features of the sentences.

    For each pair of sentences with neural distance d, the target ``y = d^2`` (min-max scaled or
    not) is predicted as ``b + w.x`` from the feature distances x with w >= 0, by ridge regression
    with two-fold cross-validation. The importance of feature k is the mean increase of the squared
    error on held-out pairs over all permutations of x_k, computed exactly.

    With ``folds="pairs"`` (the original protocol), errors and p-values treat pairs as independent.
    They are not: two pairs that share a sentence are related, and these errors are too small. With
    ``folds="sentences"`` no sentence is on both sides, and errors are over sentences ::

        std_error_k^2 = 4/n Var_i( mean over j of psi_ij )

    where psi_ij is the influence of a held-out pair on the importance of this fit (a U-statistic,
    Hoeffding 1948). The interval ``importance +- 1.96 std_error`` is about the importance of the
    metric as it was fitted on fresh sentences. `randomization_test` tests features without a metric
    and without held-out sentences.

    With folds of sentences and squared Euclidean distances that are not min-max scaled, no pair is
    visited: cost and memory grow with the sentences.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str or callable
        A metric of `sklearn.metrics.pairwise_distances`; `norm_diff`: the absolute difference
        of the Euclidean norms; or a function of two sentences, as in `distances`.
    target : {"square", "none"}
        What is predicted: the square of the distance, or the distance itself.
    min_max : bool, optional
        Whether the distances of all pairs are scaled to [0, 1] before they become targets:
        ``((d - m) / (M - m))^2`` with the smallest and the largest distance m and M. By default
        with folds of pairs, as in the original protocol, and not with folds of sentences, where it
        would let held-out sentences into the training. Importance / variance is the same on any
        scale without a shift m.
    zscore : bool
        Whether every unit is brought to mean 0 and standard deviation 1 over the sentences first.
    scale : {"linear", "squared"}
        Feature distances of numeric and vector features: as they are, or squared.
    conditional : {False, True, "exact"}
        Whether only the part of a feature that the other features do not predict is permuted.
        True: a random forest predicts it (10 trees; the depth is chosen among 2, 5 and 10), as in
        the original program. "exact": its mean over the pairs that agree in all other features.
        Not for numeric features and vectors of so many values that no two pairs are alike.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.
    groups : mapping of str to iterable of str, optional
        Features that are permuted together too, such as ``{"subject": ["subj_NUM", "subj_GEN"]}``.
        Each group has an importance, an error and a p-value beside those of the features, under its
        own label along `feature`; it has no weight (NaN). A feature may be in several groups. With
        ``conditional``, only what the features outside the group do not predict is permuted.
        Importances of groups take the pairs, also where those of features alone would not.
    items : mapping of str to str, optional
        With folds of sentences: features that belong to items, such as the gender of a noun, and
        the coordinate over `sentence` that says which item a sentence has. Items are then the units
        of the feature's error. By default what the features say themselves; `{}`: none.
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
        `r`, `mse`, `variance` of the target (so that importance / variance is a drop of R2),
        `r2_std_error` over sentences with ``folds="sentences"`` and, with `mae=True`, `mae`
        (..., layer), means over the folds.

    Raises
    ------
    InputError
        If an option is unknown or `activations` is not what it should be; when computed, if a
        representation holds NaN or infinite values (the message names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its importance is 0 and its p-value 1.
        When computed, if all sentences have the same activations in a representation, but for
        rounding: its scores are NaN, its importances 0 and its p-values 1.

    References
    ----------
    Jalouzot et al. 2024, Metric-Learning Encoding Models, arXiv 2402.11608.
    Hoeffding 1948, A class of statistics with asymptotically normal distribution,
    https://doi.org/10.1214/aoms/1177730196.

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
    options = ImportanceOptions.taken_from(locals())
    return MULTIVARIATE(activations, options, features=features, items=items)
