"""Importance of the features for the distances over every unit alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
from mlem_xr.analyses.neural_distances import check_distance
from mlem_xr.analyses.options import option
from mlem_xr.kernels.distances import DISTANCES, Function, find_distance
from mlem_xr.kernels.explain import explain_units
from mlem_xr.kernels.explain_levels import on_levels
from mlem_xr.kernels.targets import BLOCK
from mlem_xr.schema import InputError

_PAIRS_PER_TASK = 5e8
_SENTENCES_PER_TASK = 1e7
"""Pairs or sentences x units of a task, as its cost grows with the ones or the others: a tenth of a
second of work or more, so that its overhead is small."""


def _check_distance(name: str, value: Any) -> str | Function:
    distance = check_distance(name, value)
    if not find_distance(distance).of_one_unit:
        raise InputError(
            f"{name}: {distance!r} means nothing for a single unit; "
            "expected another one, such as 'euclidean'"
        )
    return distance


@dataclass(frozen=True, kw_only=True)
class UnivariateOptions(ImportanceOptions):
    """The options of an analysis of single units, where not every distance has a meaning."""

    distance: str | Function = option(
        "euclidean",
        "Distance between the activations of a unit.",
        known=[name for name, distance in DISTANCES.items() if distance.of_one_unit],
        check=_check_distance,
    )


def units_per_task(n_sentences: int, options: UnivariateOptions) -> int:
    """Return how many units a task takes at most: some blocks of them."""
    most = _PAIRS_PER_TASK / (n_sentences * (n_sentences - 1) / 2)
    if on_levels(options):
        most = _SENTENCES_PER_TASK / n_sentences
    return BLOCK * max(1, round(most / BLOCK))


UNIVARIATE = Analysis(
    name="univariate_importance",
    help="Explain the distances over every unit alone.",
    command="univariate",
    function=explain_units,
    inputs=IMPORTANCE_INPUTS,
    outputs=lambda options: outputs(options, "unit"),
    options=UnivariateOptions,
    labels=labels_of,
    check=warn_of_useless_features,
    along="unit",
    per_task=units_per_task,
    with_items=with_items,
    without_items=WITHOUT_ITEMS,
    original="Univariate",
)


def univariate_importance(
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
    """Explain the distances over every unit alone by the features of the sentences.

    The same as `multivariate_importance` with the neural distance ``d = |a_i - a_j|`` of one unit:
    the sums over pairs are fused with the distance, so that a layer of units costs one pass at
    memory speed. With ``folds="sentences"`` no pair is visited at all: the cost grows with the
    sentences, not with their square, and units that are mostly 0 cost less.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str
        As for `multivariate_importance`. Euclidean, Manhattan, Chebyshev and Minkowski distances
        are all ``|a_i - a_j|``; `norm_diff` is ``||a_i| - |a_j||``. Others take a matrix per unit,
        which is slow. Cosine and correlation distances mean nothing in one dimension.
    target, min_max, zscore, scale, conditional, features, groups, items, folds
        As for `multivariate_importance`.
    random_state, alphas, mae
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
        should be; when computed, if a representation holds NaN or infinite values (the message
        names it).

    Warns
    -----
    UserWarning
        If a feature differs in no pair or in every pair: its importance is 0 and its p-value 1.
        When computed, if all sentences have the same activations in a representation, but for what
        may be rounding beside its largest unit: all its units are constant.

    Examples
    --------
    >>> import numpy as np
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
    options = UnivariateOptions.taken_from(locals())
    return UNIVARIATE(activations, options, features=features, items=items)
