import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

from mlem_xr.kernels import ridge
from mlem_xr.kernels.statistics import regressors, statistics

ALPHAS = 10.0 ** np.arange(-4, 5)


def sums_of(x, y, count=None):
    """Sums over rows that each stand for themselves, or for so many."""
    count = np.ones(len(x)) if count is None else count
    total = y * count[:, np.newaxis]
    return statistics(regressors(x, count), x, total, y * total)


def fit_all(x, y, alphas):
    """Train, validate and refit on the same rows."""
    return ridge.fit(*[sums_of(x, y)] * 3, np.asarray(alphas))


def random_problem(seed, n=60, n_features=6, n_targets=4):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (n, n_features)).astype(float)
    weight = np.maximum(rng.normal(size=(n_features, n_targets)), 0)
    return x, x @ weight + rng.normal(scale=0.5, size=(n, n_targets))


@pytest.mark.parametrize("seed", range(5))
def test_fit_is_the_ridge_of_scikit_learn(seed):
    x, y = random_problem(seed)
    train, validation = slice(0, 40), slice(40, 60)
    sums = [sums_of(x[part], y[part]) for part in (train, validation, slice(None))]
    fit = ridge.fit(*sums, ALPHAS)
    for t in range(y.shape[1]):
        errors = [
            np.mean(
                (
                    y[validation, t]
                    - Ridge(alpha=a, positive=True, tol=1e-12)
                    .fit(x[train], y[train, t])
                    .predict(x[validation])
                )
                ** 2
            )
            for a in ALPHAS
        ]
        assert fit.alpha[t] == ALPHAS[np.argmin(errors)]
        model = Ridge(alpha=fit.alpha[t], positive=True, tol=1e-12).fit(x, y[:, t])
        np.testing.assert_allclose(fit.weight[t], model.coef_, atol=1e-5)
        np.testing.assert_allclose(fit.intercept[t], model.intercept_, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), n_features=st.integers(1, 20), alpha=st.sampled_from(ALPHAS))
def test_weights_solve_the_non_negative_least_squares_problem(seed, n_features, alpha):
    rng = np.random.default_rng(seed)
    # Few rows and repeated columns: the hard, nearly singular problems.
    x = rng.integers(0, 2, (rng.integers(3, 30), n_features)).astype(float)
    x[:, rng.integers(n_features)] = x[:, 0]
    y = rng.normal(size=(len(x), 1))
    weight = fit_all(x, y, [alpha]).weight[0]
    centered = np.vstack([x - x.mean(axis=0), np.sqrt(alpha) * np.eye(n_features)])
    right = np.concatenate([y[:, 0] - y.mean(), np.zeros(n_features)])
    best = np.sum((centered @ nnls(centered, right)[0] - right) ** 2)
    assert (weight >= 0).all()
    assert np.sum((centered @ weight - right) ** 2) <= best * (1 + 1e-9) + 1e-12


def test_patterns_with_counts_are_repeated_rows():
    x, y = random_problem(0, n_targets=2)
    count = np.arange(len(x)) % 3 + 1
    repeated = sums_of(np.repeat(x, count, axis=0), np.repeat(y, count, axis=0))
    grouped = sums_of(x, y, count.astype(float))
    for name in ("n_pairs", "mean", "gram"):
        ours, theirs = (getattr(sums.regressors, name) for sums in (grouped, repeated))
        np.testing.assert_allclose(ours, theirs)
    np.testing.assert_allclose(grouped.mean, repeated.mean)
    np.testing.assert_allclose(grouped.cross, repeated.cross, atol=1e-10)
    np.testing.assert_allclose(grouped.yy, repeated.yy)


def test_the_smaller_alpha_wins_a_tie():
    x, _ = random_problem(0)
    fit = fit_all(x, np.full((len(x), 1), 3.0), ALPHAS)
    assert fit.alpha[0] == ALPHAS[0]
    np.testing.assert_array_equal(fit.weight, 0)
    np.testing.assert_allclose(fit.intercept, 3.0)
