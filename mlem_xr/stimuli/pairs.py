"""Sentences -> codes of their features, and the feature distances of all pairs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.distances import check_distances, is_constant
from mlem_xr.kernels.errors import Undefined
from mlem_xr.kernels.features import Features, features_of
from mlem_xr.kernels.patterns import MAX_FEATURES, sums_over_pairs
from mlem_xr.kernels.statistics import Regressors
from mlem_xr.schema import (
    NUMERIC,
    InputError,
    check_features,
    check_same_sentences,
    kind_of,
)
from mlem_xr.stimuli.table import Codes, feature_values

_FRACTION = 2.0**-10
"""Numbers of so many binary places are what somebody wrote, not what rounding left."""

_ROWS = 1024
"""Points whose distances to all others are computed together."""

_ROUNDING = 1e-12
"""Relative to the mean square: a smaller variance is a rounding error."""


def feature_codes(
    data: xr.Dataset, features: Iterable[str] | None = None, *, known: Codes | None = None
) -> xr.DataArray:
    """Enumerate the levels of each feature: int32 (sentence, feature), -1 where undefined."""
    names = check_features(data, features)
    if len(names) > MAX_FEATURES:
        raise InputError(
            f"features: {len(names)} found; expected at most {MAX_FEATURES}: choose some of them"
        )
    if data.sizes["sentence"] < 2:
        raise InputError(f"stimuli: {data.sizes['sentence']} sentences; expected at least 2")
    known = Codes(data) if known is None else known
    codes = np.stack([known[name] for name in names], axis=1)
    return xr.DataArray(codes, dims=("sentence", "feature"), coords={"feature": names})


def feature_arrays(data: xr.Dataset, codes: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the fields of `Features` beside the codes, with their dimensions."""
    positions, axis_of, given, given_of = [], [], [], []
    for k, name in enumerate(codes["feature"].values.tolist()):
        kind = kind_of(data, name)
        if kind == "given":
            given.append(_given(data, name))
            given_of.append(k)
        elif kind != "categorical":
            position = _scaled(_points(data, name))
            positions.append(position)
            axis_of += [k] * position.shape[1]
    n = codes.sizes["sentence"]
    return {
        "position": xr.DataArray(
            np.concatenate([np.empty((n, 0)), *positions], axis=1), dims=("sentence", "axis")
        ),
        "axis_of": xr.DataArray(np.array(axis_of, np.int64), dims="axis"),
        "given": xr.DataArray(
            np.stack([*given]) if given else np.empty((0, n, n)),
            dims=("given", "sentence", "other_sentence"),
        ),
        "given_of": xr.DataArray(np.array(given_of, np.int64), dims="given"),
    }


def feature_measures(data: xr.Dataset, codes: xr.DataArray) -> xr.DataArray:
    """Return the numbers of numeric features: float64 (sentence, feature), NaN of others."""
    measure = codes.astype(np.float64) * np.nan
    for k, name in enumerate(codes["feature"].values.tolist()):
        if kind_of(data, name) == NUMERIC:
            measure[:, k] = _points(data, name)[:, 0]
    return measure


def _points(data: xr.Dataset, feature: str) -> NDArray:
    """Return the points of a numeric feature or a vector: float64 (sentence, axis).

    A point without numbers on all axes has none. What differs by rounding alone is the same.
    """
    points = feature_values(data, feature).reshape(data.sizes["sentence"], -1).astype(np.float64)
    defined = ~np.isnan(points).any(axis=1)
    points[~defined] = np.nan
    if defined.any():
        points[defined] = _without_rounding(points[defined])
    return points


def _without_rounding(points: NDArray) -> NDArray:
    """Make points the same that differ by rounding alone, or else their numbers on such an axis.

    Rounding would be stretched to distances, or to what is known of sentences when others are
    drawn.
    """
    axes = np.hsplit(points, points.shape[1])
    # What is infinite as float32, or as a difference, is no rounding.
    with np.errstate(over="ignore"):
        all_same = is_constant(_as_measured(points))
        same = [all_same or is_constant(_as_measured(axis)) for axis in axes]
    return np.where(same, points[0], points)


def _in_range(points: NDArray) -> NDArray:
    """Bring points to where no difference is infinite and no square is infinite or 0.

    A power of two divides them, which rounds nothing.
    """
    _, exponent = np.frexp(np.nanmax(np.abs(points)))
    return np.ldexp(points, -exponent)


def _as_measured(numbers: NDArray) -> NDArray:
    """Return numbers as float32 if that is how they were rounded before they became float64.

    They all are float32 then. Those that are multiples of a simple fraction may be too, such as
    dates with halves of days, and are taken to be exact.
    """
    single = numbers.astype(np.float32)
    was_single = (single == numbers).all() and (numbers % _FRACTION != 0).any()
    return single if was_single else numbers


def _given(data: xr.Dataset, feature: str) -> NDArray:
    """Return distances that are given, checked and divided by the largest one."""
    argument = f"feature_distance: {feature!r}"
    distance = data["feature_distance"].sel(feature=feature).transpose("sentence", ...)
    check_same_sentences(argument, distance)
    values = np.asarray(distance.values, dtype=np.float64)
    try:
        check_distances(values)
    except Undefined as error:
        raise InputError(f"{argument}: {error}") from error
    largest = values.max(initial=0.0)
    return values / largest if largest > 0 else values


def features_in(data: xr.Dataset, features: Iterable[str] | None = None) -> Features:
    """Return the features of some sentences as the kernels take them."""
    codes = feature_codes(data, features)
    others: dict[str, Any] = {k: v.values for k, v in feature_arrays(data, codes).items()}
    return features_of(codes.values, **others)


def _scaled(points: NDArray) -> NDArray:
    """Bring points (sentence, axis) to a largest distance of 1 around 0; NaN where they are.

    Sums over pairs multiply squares out, which would lose the digits that an offset has before.
    """
    defined = ~np.isnan(points[:, 0])
    if not defined.any():
        return points
    points = _in_range(points)
    centered = points - (points[defined].min(axis=0) + points[defined].max(axis=0)) / 2
    one_axis = points.shape[1] == 1
    largest = np.ptp(centered[defined]) if one_axis else _diameter(centered[defined])
    return centered / largest if largest > 0 else centered


def _diameter(points: NDArray) -> float:
    """Return the largest distance of two points."""
    from scipy.spatial.distance import cdist

    rows = range(0, len(points), _ROWS)
    return max((float(cdist(points[i : i + _ROWS], points[i:]).max()) for i in rows), default=0.0)


def feature_distances(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Compute the feature distances of every pair of sentences.

    Categorical features: 1 if both sentences differ in it, else 0. Numeric ones: the absolute
    difference divided by the largest one. Vectors: the Euclidean distance divided by the largest
    one; numbers that differ by rounding alone are the same. 0 where a sentence leaves the feature
    undefined. n (n - 1) / 2 x F bytes or numbers: the analyses never need this table; it is there
    to look at.

    Parameters
    ----------
    stimuli : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        uint8 (pair, feature), or float64 if one of the features is numeric or a vector; pairs in
        upper-triangle order; coordinates `first_sentence` and
        `second_sentence` (pair) label the two sentences.

    Raises
    ------
    InputError
        If there is no feature, or an unknown one.

    Examples
    --------
    >>> table = xr.Dataset(coords={"number": ("sentence", ["sg", "pl", None])})
    >>> feature_distances(table).values.ravel().tolist()
    [1, 0, 0]
    """
    known, names = features_in(stimuli, features), check_features(stimuli, features)
    label = stimuli["sentence"].values
    first, second = np.triu_indices(len(label), 1)
    distance = known.distances(first, second)
    return xr.DataArray(
        distance.astype(np.uint8) if known.are_categorical else distance,
        dims=("pair", "feature"),
        coords={
            "feature": names,
            "first_sentence": ("pair", label[first]),
            "second_sentence": ("pair", label[second]),
        },
        name="feature_distance",
    )


def feature_correlation(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Correlate the feature distances over all pairs of sentences.

    The Pearson correlation of two features' distances; no array of the size of the pairs x features
    is made.

    Parameters
    ----------
    stimuli : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        float64 (feature, other_feature), between -1 and 1; NaN for a feature that differs in no
        pair or in every pair.

    Raises
    ------
    InputError
        If there is no feature, or an unknown one.

    Examples
    --------
    >>> table = xr.Dataset(
    ...     coords={"a": ("sentence", [0, 0, 1, 1]), "b": ("sentence", [0, 0, 1, 1])}
    ... )
    >>> feature_correlation(table).values.round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    names = check_features(stimuli, features)
    return correlation_of(names, sums_over_pairs(features_in(stimuli, names))[1])


def correlation_of(names: list[str], sums: Regressors) -> xr.DataArray:
    """Return the correlation of the feature distances whose sums over pairs these are."""
    covariance = sums.gram
    varies = np.diag(covariance) > _ROUNDING * np.diag(sums.xx)
    deviation = np.where(varies, np.sqrt(np.abs(np.diag(covariance))), np.nan)
    correlation = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
    return xr.DataArray(
        correlation,
        dims=("feature", "other_feature"),
        coords={"feature": names, "other_feature": names},
        name="feature_correlation",
    )
