"""Level sums against sums over pairs, which they never visit."""

import warnings
from itertools import count
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlem_xr as mx
from mlem_xr.kernels import dense_units, explain, layer_levels, sparse_units
from mlem_xr.kernels.errors import Undefined
from mlem_xr.kernels.folds import TRAIN, VALIDATION, split
from mlem_xr.kernels.influence import standard_errors
from mlem_xr.kernels.levels import differing, fold_statistics, level_design

OPTIONS = {
    **{"distance": "euclidean", "target": "square", "min_max": False, "zscore": False},
    **{"conditional": False, "folds": "sentences", "random_state": 0, "mae": False},
    **{"scale": "linear"},
    "alphas": 10.0 ** np.arange(-4, 5),
}


def random_design(seed, n, n_features, n_levels):
    """Codes with undefined values, and features that never differ or are defined nowhere."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, n_levels, size=(n, n_features)).astype(np.int32)
    kind = rng.integers(5, size=n_features)
    codes[:, kind == 0] = np.maximum(codes[:, kind == 0], 0)
    codes[:, kind == 1] = rng.integers(0, 2)
    codes[:, kind == 2] = -1
    return codes


def pairs_of(codes, sentences):
    """Feature distances (pair, feature) of all pairs of some sentences, and the pairs."""
    own = codes[sentences]
    i, j = np.triu_indices(len(own), 1)
    x = ((own[i] != own[j]) & (own[i] >= 0) & (own[j] >= 0)).astype(float)
    return x, i, j


def sets_of(n):
    """Sentences of each fold: train, validation, all; as each fold holds them out."""
    held_out, subset = split(n, 0)
    for fold in (0, 1):
        own = held_out == fold
        yield [
            np.flatnonzero(chosen)
            for chosen in (own & (subset == TRAIN), own & (subset == VALIDATION), own)
        ]


def check_statistics(folds, codes, targets):
    """Compare with sums over pairs; `targets` takes sentences and gives y (pair, target)."""
    sets = list(sets_of(len(codes)))
    for fold, found in enumerate(folds):
        own, other = sets[fold], sets[1 - fold]
        for sums, sentences in zip(found, [*other, own[2]], strict=True):
            x, i, j = pairs_of(codes, sentences)
            y = targets(sentences[i], sentences[j])
            expected = (x.sum(axis=0), x.T @ x)
            assert sums.regressors.n_pairs == len(x)
            for value, plain in zip(sums.regressors[1:], expected, strict=True):
                np.testing.assert_array_equal(value, plain)
            scale = len(y) * y.max()
            np.testing.assert_allclose(sums.y, y.sum(axis=0), rtol=1e-11, atol=1e-13 * scale)
            np.testing.assert_allclose(sums.xy, y.T @ x, rtol=1e-11, atol=1e-13 * scale)
        expected = (y**2).sum(axis=0)
        scale = len(y) * (y**2).max()
        np.testing.assert_allclose(found.held_out.yy, expected, rtol=1e-10, atol=1e-13 * scale)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(12, 60),
    n_features=st.integers(1, 6),
    n_levels=st.integers(1, 5),
    units_of=st.sampled_from(
        [*((dense_units, zeros) for zeros in (0.0, 0.5, 0.99)), (sparse_units, 0.95)]
    ),
)
def test_sums_of_units_are_those_over_pairs(seed, n, n_features, n_levels, units_of):
    kernels, zeros = units_of
    rng = np.random.default_rng(seed)
    codes = random_design(seed, n, n_features, n_levels)
    activation = (rng.normal(size=(n, 11)) + rng.normal(size=11) * 10) * (
        rng.random((n, 11)) >= zeros
    )
    design = level_design(codes, 0)
    filled = [np.count_nonzero(activation, axis=0)] if kernels is sparse_units else []
    found = kernels.fold_units(activation, *filled, np.zeros(11), design)
    units = [fold.sums for fold in found]
    sums = [unit.level_sums(11) for unit in units]
    folds = fold_statistics(design, sums, [unit.sums_of_squares(11) for unit in units])
    check_statistics(folds, codes, lambda i, j: (activation[i] - activation[j]) ** 2 + 0.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(12, 60),
    n_axes=st.sampled_from([1, 3, 100]),
    n_levels=st.integers(1, 5),
)
def test_sums_of_a_layer_are_those_over_pairs(seed, n, n_axes, n_levels):
    """With more axes than sentences, too."""
    codes = random_design(seed, n, 4, n_levels)
    position = np.random.default_rng(seed).normal(size=(n, n_axes)) + 5
    design = level_design(codes, 0)
    layers = layer_levels.fold_layer(position, np.zeros(n_axes), design)
    yy = [np.array([layer.yy.sum() / 2]) for layer in layers]
    folds = fold_statistics(design, [(layer.train, layer.validation) for layer in layers], yy)

    def target(i, j):
        return ((position[i] - position[j]) ** 2).sum(axis=1, keepdims=True)

    check_statistics(folds, codes, target)


def test_counts_of_partners_are_those_of_a_loop():
    codes = random_design(3, 40, 4, 3)
    rows, index = np.unique(codes, axis=0, return_inverse=True)
    count = np.bincount(index.ravel()).astype(float)
    found, (halved, sums) = differing(np.where(rows < 0, 7, rows), np.stack([count / 2, count]), 7)
    differ = (codes[:, np.newaxis] != codes) & (codes[:, np.newaxis] >= 0) & (codes >= 0)
    expected = np.einsum("ijk,ijl->ikl", differ.astype(float), differ.astype(float))
    np.testing.assert_array_equal(found[index.ravel()], expected)
    np.testing.assert_array_equal(sums, expected.sum(axis=0) / 2)
    np.testing.assert_array_equal(halved, sums / 4)


def test_features_of_many_levels_are_counted_too():
    """More pairs of levels than there is room for: numbers of rows, and of every second row."""
    codes = np.column_stack([np.arange(60), np.arange(60) // 2, np.arange(60) % 2]).astype(np.int32)
    for fold in level_design(codes, 0).folds:
        x, _, _ = pairs_of(codes, fold.sentence)
        np.testing.assert_array_equal(fold.held_out.regressors.xx, x.T @ x)


def outputs_of(function, activation, codes, items=None, **options):
    items = np.arange(len(codes)) if items is None else items
    items = np.broadcast_to(np.reshape(items, (len(codes), -1)), codes.shape)
    chosen = SimpleNamespace(**OPTIONS | options)
    return function(activation, items.astype(np.int32), chosen, codes=codes)


def signal(seed, codes, n_units):
    """Units of noise, of which some carry a feature and one is constant."""
    rng = np.random.default_rng(seed)
    activation = rng.normal(size=(len(codes), n_units))
    activation += codes @ (rng.normal(size=(codes.shape[1], n_units)))
    activation[:, 1] = 2.5
    return activation


@pytest.mark.parametrize("by_item", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", ["euclidean", "norm_diff"])
@pytest.mark.parametrize("zeros", [False, True])
def test_both_roads_lead_to_the_same(zeros, distance, seed, by_item, monkeypatch):
    """`mae` takes the road over pairs; one unit as a layer keeps its sums in double precision."""
    codes = random_design(seed, 70, 5, 4)
    activation = signal(seed, codes, 80)
    if zeros:
        monkeypatch.setattr(sparse_units, "_FEW", 0.7)
        activation *= np.random.default_rng(seed).random(activation.shape) < 0.5
        assert (np.count_nonzero(activation, axis=0)[[0, 1, 40, 79]] < 49).all()
    items = np.arange(70) % 16 if by_item else None
    common = {"distance": distance, "items": items}
    scan = outputs_of(explain.explain_units, activation, codes, **common)
    for unit in (0, 1, 40, 79):
        column = activation[:, [unit]]
        one = outputs_of(explain.explain_layer, column, codes, **common)
        expected = outputs_of(explain.explain_layer, column, codes, mae=True, **common)
        for name, value in one.items():
            for found in (scan[name][unit], value):
                scale = np.max(np.abs(np.nan_to_num(expected[name])))
                np.testing.assert_allclose(
                    found, expected[name], rtol=1e-8, atol=1e-10 * scale, err_msg=name
                )
    whole = outputs_of(explain.explain_layer, activation, codes, **common)
    expected = outputs_of(explain.explain_layer, activation, codes, mae=True, **common)
    for name, value in whole.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_what_is_mostly_zero_has_numbers_of_its_own():
    """Alternating with units that are not; without features; and in one sentence alone."""
    codes = random_design(0, 400, 5, 4)
    rng = np.random.default_rng(0)
    activation = signal(0, codes, 90)
    activation[:, ::2] *= rng.random((400, 45)) < 0.02
    activation[:, 4] = 0.0
    activation[:, 6] = np.arange(400) == 7
    few = np.count_nonzero(activation, axis=0) < 20
    np.testing.assert_array_equal(few, np.arange(90) % 2 == 0)
    items = np.where(np.arange(5) < 2, (np.arange(400) % 40)[:, np.newaxis], 0)
    items[:, 2:] = np.arange(400)[:, np.newaxis]
    found = outputs_of(explain.explain_units, activation, codes, items=items)
    with mock.patch.object(sparse_units, "_FEW", 0.0):
        expected = outputs_of(explain.explain_units, activation, codes, items=items)
    for name, value in found.items():
        scale = np.max(np.abs(np.nan_to_num(expected[name])))
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-9, atol=1e-12 * scale, err_msg=name
        )
        np.testing.assert_array_equal(value[1::2], expected[name][1::2], err_msg=name)
    assert (found["importance"][4] == 0).all()
    assert np.isnan(found["r2"][4])


@pytest.mark.parametrize("part", [[0], [1], [0, 1]], ids=["train", "validation", "fold"])
def test_what_all_of_a_part_is_rounding_of_is_0_in_units_that_mostly_are(part):
    rng = np.random.default_rng(0)
    design = level_design(random_design(0, 400, 3, 3), 0)
    own = design.folds[0]
    where = own.sentence[np.isin(own.subset, part)]
    values = np.where(rng.random((400, 1)) < 0.1, 1.0, 0.0).repeat(2, axis=1)
    values[where] = 0.0
    noisy = values.copy()
    noisy[rng.choice(where, 10, replace=False)] = 1e-9

    def sums(activation):
        filled = np.count_nonzero(activation, axis=0)
        # So much is rounding in the first unit, and signal in the second.
        folds = sparse_units.fold_units(activation, filled, np.array([1e-6, 1e-12]), design)
        train, validation = folds[0].sums.level_sums(2)
        return train.second, validation.second

    found, expected = sums(noisy), sums(values)
    assert [number[0] > 0 for number in expected] == [subset not in part for subset in (0, 1)]
    for number, plain in zip(found, expected, strict=True):
        assert number[0] == plain[0]
    assert any(number[1] != plain[1] for number, plain in zip(found, expected, strict=True))


def test_errors_over_items_pool_what_their_sentences_add():
    """Every sentence twice, with the same item: the error is that of the items."""
    rng = np.random.default_rng(0)
    codes = np.tile(rng.integers(0, 2, (60, 3)), (2, 1)).astype(np.int32)
    activation = codes @ rng.normal(size=(3, 5)) + np.tile(rng.normal(size=(60, 5)), (2, 1))
    alone = outputs_of(explain.explain_units, activation, codes)
    pooled = outputs_of(explain.explain_units, activation, codes, items=np.arange(120) % 60)
    np.testing.assert_array_equal(pooled["importance"], alone["importance"])
    np.testing.assert_allclose(pooled["r2_std_error"], alone["r2_std_error"], rtol=1e-12)
    encoded = alone["importance"] > 2 * alone["std_error"]
    ratio = pooled["std_error"][encoded] / alone["std_error"][encoded]
    assert encoded.sum() > 3
    assert (ratio > 1.2).all()
    assert (ratio < 1.6).all()


def test_the_error_is_that_of_a_loop_over_items():
    rng = np.random.default_rng(0)
    totals = [rng.normal(size=(n, 2)) for n in (20, 21)]
    items = [rng.integers(0, 8, size=total.shape) for total in totals]
    items[0][:, 1] = items[1][:, 1] = -1
    shares = [np.array([0.4, 0.5]), np.array([0.6, 0.5])]
    found = standard_errors(totals, shares, items)
    for k, n_units in ((0, 8), (1, 41)):
        pooled, sentences = np.zeros(n_units), count()
        for total, share, item in zip(totals, shares, items, strict=True):
            mean = total[:, k] / (len(total) - 1)
            for i in range(len(total)):
                unit = next(sentences) if item[i, k] < 0 else item[i, k]
                pooled[unit] += 2 * share[k] / len(total) * (mean[i] - mean.mean())
        assert found[k] == pytest.approx(
            np.sqrt((pooled**2).sum() * n_units / (n_units - 2)), rel=1e-12
        )


def test_far_from_zero_sums_keep_their_digits():
    codes = np.maximum(random_design(0, 80, 3, 3), 0)
    activation = signal(0, codes, 6)
    near = outputs_of(explain.explain_units, activation, codes)
    far = outputs_of(explain.explain_units, activation + 1e6, codes)
    for name in ("importance", "std_error", "r2"):
        np.testing.assert_allclose(far[name], near[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_units_do_not_depend_on_their_neighbors():
    codes = random_design(5, 50, 3, 3)
    activation = signal(5, codes, 130)
    together = outputs_of(explain.explain_units, activation, codes)
    alone = outputs_of(explain.explain_units, activation[:, 100:101], codes)
    for name, value in alone.items():
        np.testing.assert_allclose(value[0], together[name][100], rtol=1e-12, err_msg=name)


def test_three_items_have_an_error_and_no_warning(activations):
    noun = np.arange(40) % 3
    data = activations.assign_coords(number=("sentence", noun % 2), noun=("sentence", noun))
    options = {"folds": "sentences", "items": {"number": "noun"}, "features": ["number"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mx.univariate_importance(data, **options)
    assert result["std_error"].notnull().any()


def test_too_few_items_have_no_error_and_are_named(activations):
    data = activations.assign_coords(number=("sentence", np.arange(40) % 2))
    with pytest.warns(UserWarning, match="^items: number have fewer than 3 items"):
        result = mx.univariate_importance(
            data.assign_coords(noun=("sentence", np.arange(40) % 2)),
            **{
                "folds": "sentences",
                "items": {"number": "noun"},
                "features": ["number", "animate"],
            },
        )
    assert result["std_error"].sel(feature="number").isnull().all()
    assert result["std_error"].sel(feature="animate").notnull().all()
    encoded = result["importance"].sel(feature="number") != 0
    p_value = result["p_value"].sel(feature="number")
    assert (p_value.isnull() == encoded).all()
    assert (p_value.where(~encoded, 1) == 1).all()


def test_too_few_sentences_are_refused():
    with pytest.raises(Undefined, match="4 sentences leave a fold of 'sentences' without"):
        level_design(np.zeros((4, 1), np.int32), 0)


def test_folds_of_sentences_leave_distances_as_they_are(activations):
    plainly = mx.multivariate_importance(activations, folds="sentences")
    assert plainly.attrs["settings"]["min_max"] is False
    assert mx.multivariate_importance(activations).attrs["settings"]["min_max"] is True
    given = mx.multivariate_importance(activations, folds="sentences", min_max=False)
    assert given.identical(plainly)
    scaled = mx.multivariate_importance(activations, folds="sentences", min_max=True)
    assert scaled.attrs["settings"]["min_max"] is True
    assert (scaled["variance"] < 1).all()
    assert (plainly["variance"] > 1).all()


def test_names_say_what_errors_are_over(activations):
    pairs = mx.univariate_importance(activations.isel(layer=[0]))
    sentences = mx.univariate_importance(activations.isel(layer=[0]), folds="sentences")
    for name in ("std_error", "p_value"):
        assert "over pairs, as if they were independent" in pairs[name].attrs["long_name"]
        assert sentences[name].attrs["long_name"].endswith("over sentences")
    assert "r2_std_error" in sentences
    assert "r2_std_error" not in pairs
