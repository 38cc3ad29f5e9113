"""Sentences -> codes of their features, and the feature distances of all pairs."""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.patterns import MAX_FEATURES, pair_patterns
from mlem_xr.schema import InputError, check_features
from mlem_xr.stimuli.table import feature_values, to_codes


def feature_codes(data: xr.Dataset, features: Iterable[str] | None = None) -> xr.DataArray:
    """Enumerate the levels of each feature: int32 (sentence, feature), -1 where undefined."""
    names = check_features(data, features)
    if len(names) > MAX_FEATURES:
        raise InputError(
            f"features: {len(names)} found; expected at most {MAX_FEATURES}: choose some of them"
        )
    if data.sizes["sentence"] < 2:
        raise InputError(f"stimuli: {data.sizes['sentence']} sentences; expected at least 2")
    codes = np.stack([to_codes(feature_values(data, name))[0] for name in names], axis=1)
    return xr.DataArray(codes, dims=("sentence", "feature"), coords={"feature": names})


def pattern_counts(
    data: xr.Dataset, *, features: Iterable[str] | None = None
) -> tuple[NDArray, NDArray]:
    """Count the pairs of sentences of each covariate pattern.

    Returns the distinct rows of feature distances, uint8 (pattern, feature), and how many pairs
    have each, int64 (pattern); they add up to n (n - 1) / 2.
    """
    pattern, index = pair_patterns(feature_codes(data, features).values)
    return pattern, np.bincount(index, minlength=len(pattern))


def feature_distances(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Compute the feature distances of every pair of sentences.

    1 if both sentences define the feature and differ in it, else 0. n (n - 1) / 2 x F bytes: the
    analyses never need this table; it is there to look at.

    Parameters
    ----------
    stimuli : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        uint8 (pair, feature), pairs in upper-triangle order; coordinates `first_sentence` and
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
    codes = feature_codes(stimuli, features)
    pattern, index = pair_patterns(codes.values)
    label = stimuli["sentence"].values
    first, second = np.triu_indices(len(codes), 1)
    return xr.DataArray(
        pattern[index],
        dims=("pair", "feature"),
        coords={
            "feature": codes["feature"],
            "first_sentence": ("pair", label[first]),
            "second_sentence": ("pair", label[second]),
        },
        name="feature_distance",
    )


def feature_correlation(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Correlate the feature distances over all pairs of sentences.

    The Pearson correlation of two features' distances (0 or 1), from the counts of the covariate
    patterns: no array of the size of the pairs x features is made.

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
    pattern, count = pattern_counts(stimuli, features=names)
    centered = pattern - count @ pattern / count.sum()
    covariance = (centered * count[:, np.newaxis]).T @ centered
    deviation = np.sqrt(np.diag(covariance))
    deviation = np.where(deviation > 0, deviation, np.nan)
    correlation = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
    return xr.DataArray(
        correlation,
        dims=("feature", "other_feature"),
        coords={"feature": names, "other_feature": names},
        name="feature_correlation",
    )
