"""A test of the features in which sentences, or what they are made of, are drawn anew."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.importance import (
    IMPORTANCE_INPUTS,
    Groups,
    Per,
    Scale,
    check_of_one_unit,
    groups_option,
    labels_of_groups,
)
from mlem_xr.analyses.neural_distances import distance_option
from mlem_xr.analyses.options import SEED, Options, integer, option
from mlem_xr.kernels.distances import Function
from mlem_xr.kernels.features import Features, features_of
from mlem_xr.kernels.randomization import randomization_design, randomize
from mlem_xr.kernels.targets import TARGETS
from mlem_xr.running.blas import one_blas_thread
from mlem_xr.schema import InputError, warn


@dataclass(frozen=True, kw_only=True)
class RandomizationOptions(Options):
    """The options of a randomization test."""

    per: Per = option("layer", "Test the distances over all units of a layer, or each unit alone.")
    distance: str | Function = distance_option()
    target: str = option(
        "square", "What is predicted: square, or none (the distance itself).", known=TARGETS
    )
    zscore: bool = option(False, "Bring every unit to mean 0 and standard deviation 1.")
    scale: Scale = option(
        "linear", "Distances of numeric and vector features as they are, or squared."
    )
    groups: Groups | None = groups_option("drawn")
    n_draws: int = option(
        999,
        "How often each feature is drawn anew.",
        check=integer(at_least=1, below=1_000_001),
        flag="draws",
    )
    random_state: int = option(0, "Seed of the draws.", check=SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_of_one_unit(self)


def _outputs(options: RandomizationOptions) -> dict[str, Output]:
    of_units = options.per == "unit"
    dims = ("unit", "feature") if of_units else ("feature",)
    family = "units of the representation" if of_units else "features"
    return {
        "statistic": Output(dims, "partial t of the feature distance given all others"),
        "p_value": Output(dims, "one-sided p-value of the feature, by conditional randomization"),
        "p_value_max": Output(dims, f"the same, family-wise over all {family}"),
    }


def _warn_of_fixed_features(
    arrays: Mapping[str, xr.DataArray], options: RandomizationOptions
) -> None:
    _check_groups(arrays)
    others = ("activation", "items", "groups")
    known = {n: a.values for n, a in arrays.items() if n not in others}
    items, groups = arrays["items"].values, arrays["groups"]
    design = randomization_design(
        _features(known, options), items, options.n_draws, options.random_state, groups.values
    )
    names = np.asarray(arrays["codes"]["feature"].values)
    if design.is_collinear.any():
        warn(
            f"features: {', '.join(names[design.is_collinear])} never differ between two "
            "sentences, always do, or have distances that follow from those of the other "
            "features; statistic NaN, p-value 1"
        )
    given = np.isin(np.arange(len(names)), known["given_of"])
    if given.any():
        warn(
            f"features: the distances of {', '.join(names[given])} are given, so there is nothing "
            "to draw; p-value 1"
        )
    determined = design.is_determined & ~design.is_collinear & ~given
    if determined.any():
        warn(
            f"features: the other features determine {', '.join(names[determined])}, so there is "
            "nothing to draw; p-value 1"
        )
    fixed = groups["group"].values[design.is_fixed[len(names) :]]
    if len(fixed):
        warn(
            f"groups: the other features determine {', '.join(fixed)}, or there is nothing that "
            "could be drawn; p-value 1"
        )


def _check_groups(arrays: Mapping[str, xr.DataArray]) -> None:
    """Refuse groups that cannot be drawn together."""
    names = np.array(arrays["codes"]["feature"].values, dtype=object)
    column_of = arrays["items"].attrs["items"]
    groups = arrays["groups"]
    for group, members in zip(groups["group"].values, groups.values, strict=True):
        given = names[np.intersect1d(np.flatnonzero(members), arrays["given_of"].values)]
        if len(given):
            raise InputError(
                f"groups: {group!r} has {given[0]!r}, whose distances are given, so that it cannot "
                "be drawn; expected features with levels or numbers"
            )
        columns = {column_of.get(name): name for name in names[members]}
        measured = np.intersect1d(np.flatnonzero(members), arrays["axis_of"].values)
        if len(columns) > 1 and len(measured):
            found = " and ".join(
                f"{name!r} (of {'sentences' if column is None else repr(column)})"
                for column, name in columns.items()
            )
            raise InputError(
                f"groups: {group!r} has {found}, and {names[measured[0]]!r} is no feature with "
                "levels; expected features of the same items, or with levels alone"
            )


def _features(arrays: Mapping[str, Any], options: RandomizationOptions) -> Features:
    return features_of(**arrays, squared=options.scale == "squared")


def _randomize(
    activation: NDArray, items: NDArray, groups: NDArray, options: Any, **features: NDArray
) -> dict[str, NDArray]:
    with one_blas_thread():
        return randomize(activation, _features(features, options), items, options, groups)


RANDOMIZATION = Analysis(
    name="randomization_test",
    help="Test each feature by drawing it anew, given the other features.",
    command="test",
    function=_randomize,
    inputs=IMPORTANCE_INPUTS,
    outputs=_outputs,
    options=RandomizationOptions,
    labels=labels_of_groups,
    check=_warn_of_fixed_features,
    leading="statistic",
)


def randomization_test(
    activations: xr.Dataset,
    *,
    per: Per = "layer",
    distance: str | Function = "euclidean",
    target: str = "square",
    zscore: bool = False,
    scale: Scale = "linear",
    n_draws: int = 999,
    features: Iterable[str] | None = None,
    groups: Groups | None = None,
    items: Mapping[str, str] | None = None,
    random_state: int = 0,
) -> xr.Dataset:
    """Test whether the activations encode each feature, given all other features.

    Pairs of sentences are not independent of each other, sentences are: what is drawn here is the
    levels of a feature k, `n_draws` times and anew for every sentence, from their distribution
    given the other features (conditional randomization). With y the target of a pair, the
    statistic is the partial t of the feature distance x_k in the ordinary regression on all feature
    distances, ::

        y = b_0 + b_1 x_1 + ... + b_F x_F + e        t_k = b_k / standard error of b_k
        p_k = (1 + number of draws with a t_k at least as large) / (1 + n_draws)

    which is recomputed for each draw of x_k with the other features as they are. p_k is the
    probability of such a large t_k if the activations depend on feature k only through the other
    features; it is one-sided, as a feature that is encoded makes distances larger. p-values can
    be no smaller than ``1 / (1 + n_draws)``.

    A feature that belongs to an item (the gender of a noun, where many sentences share a noun) has
    to be drawn noun by noun, with `items`: nouns have effects of their own, and sentences that
    share one are not independent either.

    The distribution given the other features is a multinomial logistic regression on their levels
    (undefined being one more) and numbers, without interactions, by scikit-learn; for features of
    items, over the items, on the other features that are constant within them. Numbers and points
    are the fit of a linear model on the other features, plus its residuals in another order; of
    distances that are given, nothing can be drawn. Undefined values stay where they are. Draws
    depend on the features, the items and the seed alone, are made once in each process, and are the
    same for all representations and units; more draws begin with the same ones.

    With squared Euclidean distances (and in one dimension, with all that are ``|a_i - a_j|``), sums
    over the sentences of each level are all it takes, and no pair is visited. Any other distance or
    target takes products of its matrix with the draws; with ``per="unit"``, a matrix per unit,
    which is slow.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    per : {"layer", "unit"}
        Test the distances over all units of a layer together, or over each unit alone.
    distance, target, zscore, scale
        As for `multivariate_importance`; with ``per="unit"``, as for `univariate_importance`.
        There is no `min_max`: the statistic does not depend on the scale of the target.
    n_draws : int
        How often each feature is drawn.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.
    groups : mapping of str to iterable of str, optional
        Features that are tested together too, such as ``{"subject": ["number", "gender"]}``: all
        of them are drawn at once, from their joint distribution given the features outside the
        group. The statistic is the largest partial t of any sum of their feature distances with
        weights that are not negative, given the feature distances outside: t_k for a group of one.
        Each has its own label along `feature`. Features of different items are drawn one after
        another, those of sentences given the ones of nouns; numbers and points only with features
        of the same items. What a sentence leaves undefined stays so.
    items : mapping of str to str, optional
        For features that belong to items, the coordinate over `sentence` that says which item a
        sentence has. Such a feature is constant within each item. By default what the features say
        themselves; `{}`: none.
    random_state : int
        Seed of the draws.

    Returns
    -------
    xr.Dataset
        float64 ([..., unit,] feature), lazy if `activations` is; NaN where nothing was recorded.
        `statistic`: t_k. `p_value`: p_k. `p_value_max`: the same for the maximum of the statistic
        within each draw, over the units of the representation for ``per="unit"``, else over the
        features (for groups, over the groups), each standardized by its own draws; the probability
        that any of them is falsely below q is at most q (family-wise).
        `correct_p_values` controls the share of false discoveries among units instead.

    Raises
    ------
    InputError
        If an option is unknown or means nothing in one dimension, a feature is not constant within
        its items, a group has a number or point and features of several items, or `activations` is
        not what it should be; when computed, if a representation holds NaN or infinite values (the
        message names it).

    Warns
    -----
    UserWarning
        If the other features determine a feature, so that there is nothing to draw: its p-values
        are 1. If a feature's distances follow from the others', or the feature never differs, its
        statistic is NaN and its p-values 1; so it is for constant units.

    References
    ----------
    Candes, Fan, Janson and Lv 2018, Panning for gold: model-X knockoffs for high dimensional
    controlled variable selection, J. R. Stat. Soc. B 80, 551-577. Clark 1973, The
    language-as-fixed-effect fallacy, J. Verbal Learning Verbal Behav. 12, 335-359. Westfall and
    Young 1993, Resampling-based multiple testing (the maximum).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> plural, past = rng.integers(0, 2, (2, 60))
    >>> units = rng.normal(size=(60, 5))
    >>> units[:, 3] += 2 * plural
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)},
    ...     coords={"plural": ("sentence", plural), "past": ("sentence", past)},
    ... )
    >>> test = randomization_test(data, per="unit", n_draws=199)
    >>> (test.p_value_max < 0.05).sel(feature="plural").values.tolist()
    [False, False, False, True, False]

    Does the layer encode any of the two?

    >>> together = randomization_test(data, groups={"both": ["plural", "past"]}, n_draws=199)
    >>> together.p_value.sel(feature="both").item()
    0.005
    """
    options = RandomizationOptions.taken_from(locals())
    return RANDOMIZATION(activations, options, features=features, items=items)
