"""Patterns -> the part of each feature that the other features do not predict."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

N_TREES = 10
"""Trees of a forest, as in the original program."""

DEPTHS = (2, 5, 10)
"""Depths of the trees among which cross-validation chooses, as in the original program."""

_ROUNDING = 1e-6
"""Relative to the range of a feature: the rounding of the others, float32, leaves less of it."""


def residuals(
    pattern: NDArray,
    n_pairs: NDArray,
    method: bool | str,
    random_state: int,
    together: NDArray | None = None,
) -> NDArray:
    """Compute the residuals of every feature given the others, on the pairs of one fold.

    e_gk = x_gk - E[x_k | x_-k], with the expectation over the pairs of the fold: a random forest's
    (`method` True), or the mean of x_k over the pairs that agree in all other features ("exact").
    `pattern` is (P, F), `n_pairs` (P); returns (P, F), 0 for patterns without pairs. Of features
    that are permuted `together`, bool (F), the others are those that are not; the rest is 0. So is
    what rounding leaves of a feature that the others determine.
    """
    expectation = _exact_mean if method == "exact" else _forest_mean
    result = np.zeros_like(pattern)
    present = n_pairs > 0
    x, weight = pattern[present], n_pairs[present]
    chosen = range(pattern.shape[1]) if together is None else np.flatnonzero(together)
    for k in chosen:
        others = np.delete(x, k if together is None else chosen, axis=1).astype(np.float32)
        if np.ptp(x[:, k]) > 0:
            left = x[:, k] - expectation(others, x[:, k], weight, random_state)
            if np.abs(left).max() > _ROUNDING * np.ptp(x[:, k]):
                result[present, k] = left
    return result


def _exact_mean(others: NDArray, x: NDArray, weight: NDArray, _: int) -> NDArray:
    group = np.unique(others, axis=0, return_inverse=True)[1].ravel()
    return (np.bincount(group, weight * x) / np.bincount(group, weight))[group]


def _forest_mean(others: NDArray, x: NDArray, weight: NDArray, random_state: int) -> NDArray:
    if others.shape[1] == 0:
        return np.full_like(x, np.average(x, weights=weight))
    rng = np.random.default_rng(random_state)
    # Pairs of one pattern are alike: it is enough to draw how many of them fall into each half.
    half = rng.binomial(weight.astype(np.int64), 0.5).astype(np.float64)
    errors = np.zeros(len(DEPTHS))
    for train, test in ((half, weight - half), (weight - half, half)):
        errors += (x - _forest(others, x, train, random_state)) ** 2 @ test
    return _forest(others, x, weight, random_state)[np.argmin(errors)]


def _forest(others: NDArray, x: NDArray, weight: NDArray, random_state: int) -> NDArray:
    """Predict x by random forests of all depths that are fitted on `weight` pairs per pattern.

    The bootstrap draws pairs, as if each had a row of its own, so a pattern of many pairs is in
    every tree; scikit-learn's forest would draw patterns. Returns (depth, P).
    """
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(random_state)
    total = np.zeros((len(DEPTHS), len(x)))
    for drawn in rng.multinomial(int(weight.sum()), weight / weight.sum(), size=N_TREES):
        kept = drawn > 0
        tree = DecisionTreeRegressor(max_depth=max(DEPTHS), random_state=random_state)
        weights = drawn[kept].astype(np.float64)
        tree.fit(others[kept], x[kept], sample_weight=weights, check_input=False)
        total += _predict_at_depths(tree.tree_, others)
    return total / N_TREES


def _predict_at_depths(tree: Any, others: NDArray) -> NDArray:
    """Predict with the upper part of a tree: trees grow from the root, whatever their depth."""
    parent = np.zeros(tree.node_count, np.int64)
    inner = np.flatnonzero(tree.children_left >= 0)
    parent[tree.children_left[inner]] = inner
    parent[tree.children_right[inner]] = inner
    depth = np.zeros(tree.node_count, np.int64)
    for child in range(1, tree.node_count):
        depth[child] = depth[parent[child]] + 1
    node = tree.apply(others)
    predictions = np.empty((len(DEPTHS), len(others)))
    for i in reversed(range(len(DEPTHS))):
        while (depth[node] > DEPTHS[i]).any():
            node = np.where(depth[node] > DEPTHS[i], parent[node], node)
        predictions[i] = tree.value[node, 0, 0]
    return predictions
