"""Permutation feature importance in every cell at once, of layers and of units.

The mathematics is in `mlem_xr.kernels`; this module labels what comes out.
"""

import json
import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from mlem_xr.cells import map_cells
from mlem_xr.distances import DISTANCES
from mlem_xr.explain import (
    Settings,
    explain_layer,
    explain_units,
    output_layout,
    output_size,
)
from mlem_xr.kernels.moments import BLOCK
from mlem_xr.layers import layer_settings
from mlem_xr.pairs import FOLDS, feature_codes
from mlem_xr.schema import InputError, check_activations, check_random_state, choose
from mlem_xr.stimuli.table import stimuli_attributes

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties among which the validation pairs choose."""

_SMALLEST_ALPHA = 1e-6
"""A smaller penalty drowns in rounding where two features are the same on all pairs."""

_WITHOUT_MEANING_IN_ONE_DIMENSION = ("cosine", "correlation", "mahalanobis")

_PAIRS_PER_TASK = 5e8
"""Pairs x units of a task: a tenth of a second of work or more, so that its overhead is small."""

_DIMENSIONS = {
    "importance": ("feature",),
    "std_error": ("feature",),
    "p_value": ("feature",),
    "weight": ("fold", "feature"),
    "alpha": ("fold",),
    "intercept": ("fold",),
}

_LONG_NAMES = {
    "importance": "mean increase of the squared error when the feature is permuted",
    "std_error": "standard error of the importance over pairs",
    "p_value": "one-sided p-value of the importance",
    "weight": "non-negative weight of the feature distance",
    "alpha": "chosen ridge penalty",
    "intercept": "intercept of the metric",
    "r2": "coefficient of determination on held-out pairs",
    "r": "Pearson correlation of predicted and actual target on held-out pairs",
    "mse": "mean squared error on held-out pairs",
    "mae": "mean absolute error on held-out pairs",
}


def multivariate_importance(
    activations: xr.Dataset,
    *,
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
    """Explain the distances over all units of a layer by the features of the sentences.

    For each pair of sentences with neural distance d, the target y = ((d - m) / (M - m))^2, with m
    and M the smallest and largest distance of all pairs, is predicted as b + w.x from the feature
    distances x with w >= 0, by ridge regression with two-fold cross-validation. The importance of
    feature k is the mean increase of the squared error on held-out pairs over all permutations of
    x_k, computed exactly from the moments of y per covariate pattern.

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
    min_max : bool
        Whether the distances of all pairs are scaled to [0, 1] before they are squared.
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
        `r`, `mse` and, with `mae=True`, `mae` (..., layer), means over the folds.

    Raises
    ------
    InputError
        If an option is unknown or `activations` is not what it should be; when computed, if a cell
        holds NaN or infinite values (the message names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its importance is 0 and its p-value 1.

    References
    ----------
    Jalouzot et al. 2024, Metric-Learning Encoding Models, arXiv 2402.11608.

    Examples
    --------
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
    settings = make_settings(
        distance, min_max, zscore, conditional, folds, random_state, alphas, mae
    )
    codes = make_codes(activations, features)
    packed = map_cells(
        explain_layer,
        activations,
        codes.drop_vars("feature"),
        output={"output": output_size(codes.sizes["feature"], mae=mae)},
        settings=settings,
    )
    return label_outputs(packed, activations, codes, settings, "multivariate_importance")


def univariate_importance(
    activations: xr.Dataset,
    *,
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
    """Explain the distances over every unit alone by the features of the sentences.

    The same as `multivariate_importance` with the neural distance d = |a_i - a_j| of one unit: the
    sums over pairs are fused with the distance, so that a layer of units costs one pass at memory
    speed.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str
        As for `multivariate_importance`. Euclidean, Manhattan, Chebyshev and Minkowski distances
        are all |a_i - a_j|; `norm_diff` is ||a_i| - |a_j||. Others take a matrix per unit, which
        is slow. Cosine and correlation distances mean nothing in one dimension.
    min_max, zscore, conditional, features, folds, random_state, alphas, mae
        As for `multivariate_importance`.

    Returns
    -------
    xr.Dataset
        As `multivariate_importance`, with `unit` after `layer`. A constant unit has importances 0,
        p-values 1 and scores NaN; a unit that a network lacks is NaN.

    Raises
    ------
    InputError
        If an option is unknown or means nothing in one dimension, or `activations` is not what it
        should be; when computed, if a cell holds NaN or infinite values (the message names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its importance is 0 and its p-value 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> plural = np.arange(40) % 2
    >>> units = rng.normal(size=(40, 5))
    >>> units[:, 3] += 5 * plural
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)}, coords={"plural": ("sentence", plural)}
    ... )
    >>> int(univariate_importance(data).r2.argmax("unit"))
    3
    """
    if distance in _WITHOUT_MEANING_IN_ONE_DIMENSION:
        raise InputError(
            f"distance: {distance!r} means nothing for a single unit; "
            "expected another one, such as 'euclidean'"
        )
    settings = make_settings(
        distance, min_max, zscore, conditional, folds, random_state, alphas, mae
    )
    codes = make_codes(activations, features)
    n = activations.sizes["sentence"]
    blocks = max(1, round(_PAIRS_PER_TASK / (n * (n - 1) / 2) / BLOCK))
    packed = map_cells(
        explain_units,
        activations,
        codes.drop_vars("feature"),
        output={"output": output_size(codes.sizes["feature"], mae=mae)},
        per_unit=True,
        units_per_task=blocks * BLOCK,
        settings=settings,
    )
    return label_outputs(packed, activations, codes, settings, "univariate_importance")


def make_settings(
    distance: str,
    min_max: bool,
    zscore: bool,
    conditional: bool | str,
    folds: str,
    random_state: int,
    alphas: Iterable[float],
    mae: bool,
) -> Settings:
    """Check the options of an importance analysis."""
    choose("distance", distance, DISTANCES)
    choose("folds", folds, FOLDS)
    choose("conditional", conditional, (False, True, "exact"))
    try:
        numbers = list(alphas) if isinstance(alphas, Iterable) else [alphas]
        penalties = tuple(sorted({float(alpha) for alpha in numbers}))
    except (TypeError, ValueError) as error:
        raise InputError(f"alphas: found {alphas!r}; expected numbers") from error
    if not penalties or not all(_SMALLEST_ALPHA <= alpha < np.inf for alpha in penalties):
        raise InputError(
            f"alphas: found {penalties}; expected finite numbers of at least {_SMALLEST_ALPHA}"
        )
    return Settings(
        distance,
        bool(min_max),
        bool(zscore),
        conditional if conditional == "exact" else bool(conditional),
        folds,
        check_random_state(random_state),
        penalties,
        bool(mae),
    )


def make_codes(activations: xr.Dataset, features: Iterable[str] | None) -> xr.DataArray:
    """Check the activations and return the codes of the features; warn of useless ones."""
    check_activations(activations)
    codes = feature_codes(activations, features)
    named = list(zip(codes["feature"].values.tolist(), codes.values.T, strict=True))
    # A feature differs in a pair only if two levels of it are defined.
    constant = [name for name, column in named if len(np.unique(column[column >= 0])) < 2]
    if constant:
        warnings.warn(
            f"features: {', '.join(constant)} never differ between two sentences; "
            "importance 0, p-value 1",
            stacklevel=3,
        )
    distinct = [
        name for name, column in named if len(np.unique(column[column >= 0])) == len(column)
    ]
    if distinct:
        warnings.warn(
            f"features: {', '.join(distinct)} differ between all sentences, as a number of the row "
            "does; importance 0, p-value 1",
            stacklevel=3,
        )
    return codes


def label_outputs(
    packed: xr.DataArray,
    activations: xr.Dataset,
    codes: xr.DataArray,
    settings: Settings,
    analysis: str,
    **more_settings: Any,
) -> xr.Dataset:
    """Label the packed outputs (..., output)."""
    leading = packed.dims[:-1]
    layout = output_layout(codes.sizes["feature"], mae=settings.mae)
    variables: dict[str, Any] = {}
    start = 0
    for name, shape in layout.items():
        stop = start + math.prod(shape)
        data = packed.data[..., start:stop] if shape else packed.data[..., start]
        if len(shape) > 1:
            data = data.reshape((*packed.shape[:-1], *shape))
        dims = (*leading, *_DIMENSIONS.get(name, ()))
        variables[name] = (dims, data, {"long_name": _LONG_NAMES[name]})
        start = stop
    result = xr.Dataset(variables, coords=packed.coords)
    result = result.assign_coords(feature=codes["feature"], fold=[0, 1])
    if "unit" in leading and "unit" in activations.coords:
        result = result.assign_coords(unit=activations["unit"])
    names = codes["feature"].values.tolist()
    layers = layer_settings(activations, per_unit="unit" in leading)
    return result.assign_attrs(
        analysis=analysis,
        settings=json.dumps(settings._asdict() | {"features": names} | layers | more_settings),
        features=names,
        **stimuli_attributes(activations),
    )
