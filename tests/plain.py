"""Plain implementations, to compare with: loops over pairs and scikit-learn, nothing clever."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import norm, pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import (
    mean_absolute_error,
    mean_squared_error,
    pairwise_distances,
    r2_score,
)
from sklearn.model_selection import KFold, train_test_split

ALPHAS = [10.0**power for power in range(-4, 5)]


def feature_distances(columns: list[np.ndarray]) -> np.ndarray:
    """(pair, feature): 1 where both sentences define the feature and differ in it."""
    return np.array(
        [
            [float(not pd.isna(c[i]) and not pd.isna(c[j]) and c[i] != c[j]) for c in columns]
            for i, j in combinations(range(len(columns[0])), 2)
        ]
    )


def distances_of_kinds(columns: list[np.ndarray], kinds: list[str]) -> np.ndarray:
    """(pair, feature): as far apart as two sentences are in features of any kind."""
    x = feature_distances(
        [c if kind == "categorical" else c[:, 0] for c, kind in zip(columns, kinds, strict=True)]
    )
    for k, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
        if kind != "categorical":
            pairs = combinations(range(len(column)), 2)
            d = np.array([np.linalg.norm(column[i] - column[j]) for i, j in pairs])
            x[:, k] = np.nan_to_num(d) / np.nanmax(d)
    return x


def target(activation: np.ndarray, distance: str, *, min_max: bool, zscore: bool) -> np.ndarray:
    """(pair): the squared, perhaps min-max scaled distances."""
    activation = activation.astype(float)
    if zscore:
        activation = (activation - activation.mean(0)) / activation.std(0)
    n = len(activation)
    if distance == "norm_diff":
        norms = np.sqrt((activation**2).sum(1))
        d = np.array([abs(norms[i] - norms[j]) for i, j in combinations(range(n), 2)])
    else:
        d = pairwise_distances(activation, metric=distance)[np.triu_indices(n, 1)]
    if min_max:
        d = (d - d.min()) / (d.max() - d.min())
    return d**2


def pair_splits(n_pairs: int, random_state: int) -> list[tuple[np.ndarray, ...]]:
    """(train, validation, refit, test) pairs of each fold: the original protocol."""
    splits = []
    folds = KFold(2, shuffle=True, random_state=random_state)
    for training, test in folds.split(np.zeros(n_pairs)):
        train, validation = train_test_split(training, train_size=0.8, random_state=random_state)
        splits.append((train, validation, training, test))
    return splits


def sentence_splits(n: int, random_state: int) -> list[tuple[np.ndarray, ...]]:
    """(train, validation, refit, test) pairs of each fold, split by sentences."""
    pairs = list(combinations(range(n), 2))

    def inside(sentences: np.ndarray) -> np.ndarray:
        kept = set(sentences.tolist())
        return np.array([p for p, (i, j) in enumerate(pairs) if i in kept and j in kept])

    splits = []
    for training, test in KFold(2, shuffle=True, random_state=random_state).split(np.zeros(n)):
        train, validation = train_test_split(training, train_size=0.8, random_state=random_state)
        splits.append((inside(train), inside(validation), inside(training), inside(test)))
    return splits


def u_statistic_error(influence: np.ndarray, pairs: np.ndarray, items: np.ndarray) -> float:
    """Square of the standard error of a mean over pairs (pair, 2) of sentences, over items.

    With one sentence per item: 4/n times the variance of the means over partners.
    """
    sentences = sorted(set(pairs.ravel().tolist()))
    means = {}
    for sentence in sentences:
        means[sentence] = np.mean(
            [v for v, pair in zip(influence, pairs, strict=True) if sentence in pair]
        )
    mean, n = np.mean(list(means.values())), len(sentences)
    pooled: dict = {}
    for sentence in sentences:
        pooled[items[sentence]] = pooled.get(items[sentence], 0.0) + means[sentence] - mean
    return 4 / n**2 * sum(value**2 for value in pooled.values()) * n / (n - 1)


def errors_over_sentences(x, y, splits, out) -> dict[str, np.ndarray]:
    """Standard errors over sentences of one target, as DESIGN writes their influence functions."""
    n = round((1 + np.sqrt(1 + 8 * len(y))) / 2)
    pairs = np.array(list(combinations(range(n), 2)))
    sizes = np.array([len(test) for *_, test in splits])
    squares, r2_squares = np.zeros(x.shape[1]), 0.0
    for fold, (*_, test) in enumerate(splits):
        w, own = out["weight"][fold], x[test]
        r = y[test] - out["intercept"][fold] - own @ w
        for k in range(x.shape[1]):
            xk, u = own[:, k], own[:, k].mean()
            v = np.mean(xk**2)
            phi = w[k] ** 2 * (v - 2 * u * xk + xk**2) - 2 * w[k] * (u - xk) * r
            # u and v are estimated too.
            phi = phi + w[k] ** 2 * (xk**2 - v - 2 * u * (xk - u)) - 2 * w[k] * (xk - u) * r.mean()
            error = u_statistic_error(phi, pairs[test], np.arange(n))
            squares[k] += (sizes[fold] / sizes.sum()) ** 2 * error
        m, v, deviation = np.mean(r**2), np.var(y[test]), y[test] - y[test].mean()
        psi = m / v**2 * (deviation**2 - v) - (r**2 - m) / v
        r2_squares += u_statistic_error(psi, pairs[test], np.arange(n)) / len(splits) ** 2
    return {"std_error": np.sqrt(squares), "r2_std_error": np.sqrt(r2_squares)}


def explain(
    x: np.ndarray, y: np.ndarray, splits: list, alphas=ALPHAS, permuted=None, sentences=False
) -> dict[str, np.ndarray]:
    """All outputs of an importance analysis for one target.

    `permuted` gives, for each fold, what is permuted in its held-out pairs, if not x itself.
    `sentences`: whether the errors are over sentences.
    """
    out: dict[str, list] = {
        k: [] for k in ("weight", "intercept", "alpha", "r2", "r", "mse", "variance", "mae")
    }
    increases = []
    for fold, (train, validation, refit, test) in enumerate(splits):
        values = x[test] if permuted is None else permuted[fold]
        errors = []
        for alpha in alphas:
            model = Ridge(alpha=alpha, positive=True, tol=1e-12).fit(x[train], y[train])
            errors.append(mean_squared_error(y[validation], model.predict(x[validation])))
        alpha = alphas[int(np.argmin(errors))]
        model = Ridge(alpha=alpha, positive=True, tol=1e-12).fit(x[refit], y[refit])
        prediction = model.predict(x[test])
        residual = y[test] - prediction
        out["weight"].append(model.coef_)
        out["intercept"].append(model.intercept_)
        out["alpha"].append(alpha)
        out["r2"].append(r2_score(y[test], prediction))
        out["r"].append(pearsonr(y[test], prediction)[0])
        out["mse"].append(mean_squared_error(y[test], prediction))
        out["variance"].append(np.var(y[test]))
        out["mae"].append(mean_absolute_error(y[test], prediction))
        # Every pair gets the feature of every pair of the fold: all permutations on average.
        increase = np.empty((len(test), x.shape[1]))
        for k in range(x.shape[1]):
            change = values[:, k][np.newaxis, :] - values[:, k][:, np.newaxis]
            step = model.coef_[k] * change
            # (residual - step)^2 - residual^2, exactly 0 where the weight is.
            increase[:, k] = (step * (step - 2 * residual[:, np.newaxis])).mean(axis=1)
        increases.append(increase)
    increase = np.concatenate(increases)
    importance = increase.mean(axis=0)
    errors = {"std_error": increase.std(axis=0, ddof=1) / np.sqrt(len(increase))}
    if sentences:
        errors = errors_over_sentences(x, y, splits, out)
    std_error = errors["std_error"]
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = np.where(std_error > 0, norm.sf(importance / std_error), 1.0)
    means = {name: np.mean(out[name]) for name in ("r2", "r", "mse", "variance", "mae")}
    folds = {name: np.array(out[name]) for name in ("weight", "intercept", "alpha")}
    return {"importance": importance, **errors, "p_value": p_value, **means, **folds}
