from itertools import combinations

import numpy as np
import pytest
import xarray as xr

import plain
from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.design import pair_design
from mlem_xr.kernels.errors import Undefined
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.folds import pair_labels
from mlem_xr.kernels.patterns import pair_patterns, sums_over_pairs
from mlem_xr.schema import InputError
from mlem_xr.stimuli import feature_correlation, feature_distances


def random_codes(n, n_features, n_levels=3, seed=0):
    return np.random.default_rng(seed).integers(-1, n_levels, (n, n_features)).astype(np.int32)


def plain_rows(codes):
    columns = [np.where(c < 0, np.nan, c) for c in codes.T.astype(float)]
    return plain.feature_distances(columns)


@pytest.mark.parametrize(("n", "n_features"), [(2, 1), (7, 3), (300, 2), (40, 64), (90, 13)])
def test_patterns_are_the_distinct_rows_of_feature_distances(n, n_features):
    codes = random_codes(n, n_features)
    pattern, index = pair_patterns(features_of(codes))
    np.testing.assert_array_equal(pattern[index], plain_rows(codes))
    assert len(np.unique(pattern, axis=0)) == len(pattern)
    assert len(np.unique(index)) == len(pattern)


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_pairs_are_sorted_by_fold_subset_and_pattern(folds):
    codes = random_codes(30, 3)
    design = pair_design(features_of(codes), folds=folds, random_state=3)
    label, _ = pair_labels(30, folds=folds, random_state=3)
    n_groups = design.n_pairs.size
    expected = {g: [] for g in range(n_groups)}
    n_patterns = len(design.pattern)
    rows = [tuple(row) for row in design.pattern.astype(int)]
    for p, ((i, j), row) in enumerate(
        zip(combinations(range(30), 2), plain_rows(codes).astype(int), strict=True)
    ):
        if label[p] >= 0:
            expected[label[p] * n_patterns + rows.index(tuple(row))].append((i, j))
    first, second, start = design.pairs
    for g in range(n_groups):
        part = slice(start[g], start[g + 1])
        found = list(zip(first[part].tolist(), second[part].tolist(), strict=True))
        assert found == expected[g]
        assert design.n_pairs.ravel()[g] == len(found)


def test_folds_of_pairs_are_the_splitters_of_scikit_learn():
    label, _ = pair_labels(25, folds="pairs", random_state=5)
    for fold, (train, validation, refit, test) in enumerate(plain.pair_splits(300, 5)):
        other = 2 * (1 - fold)
        np.testing.assert_array_equal(np.flatnonzero(label == other), np.sort(train))
        np.testing.assert_array_equal(np.flatnonzero(label == other + 1), np.sort(validation))
        np.testing.assert_array_equal(np.flatnonzero(label // 2 == 1 - fold), refit)
        np.testing.assert_array_equal(np.flatnonzero(label // 2 == fold), test)


def test_folds_of_sentences_keep_every_sentence_on_one_side():
    label, _ = pair_labels(25, folds="sentences", random_state=5)
    table = list(combinations(range(25), 2))
    for fold, split in enumerate(plain.sentence_splits(25, 5)):
        other = 3 * (1 - fold)
        found = (
            np.flatnonzero(label == other),
            np.flatnonzero(label == other + 1),
            np.flatnonzero((label >= other) & (label < other + 3)),
            np.flatnonzero((label >= 3 * fold) & (label < 3 * fold + 3)),
        )
        for ours, theirs in zip(found, split, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        trained = {s for p in found[2] for s in table[p]}
        tested = {s for p in found[3] for s in table[p]}
        assert not trained & tested
    assert (label == -1).sum() == 12 * 13


def test_all_pairs_are_counted_and_summed():
    codes = random_codes(30, 4)
    counts, sums = sums_over_pairs(features_of(codes))
    rows = plain_rows(codes)
    assert sums.n_pairs == len(rows)
    assert counts.n_patterns == len(np.unique(rows, axis=0))
    np.testing.assert_array_equal(counts.differing, rows.sum(axis=0))
    np.testing.assert_array_equal(sums.x, rows.sum(axis=0))
    np.testing.assert_array_equal(sums.xx, rows.T @ rows)


def test_feature_distances_label_their_pairs(stimuli):
    result = feature_distances(stimuli)
    columns = [stimuli[name].values for name in stimuli.attrs["features"]]
    np.testing.assert_array_equal(result, plain.feature_distances(columns))
    assert result.dtype == np.uint8
    assert result.dims == ("pair", "feature")
    found = list(zip(result.first_sentence.values, result.second_sentence.values, strict=True))
    assert found == list(combinations(range(40), 2))


def test_feature_correlation_is_the_correlation_over_all_pairs(stimuli):
    columns = [stimuli[name].values for name in stimuli.attrs["features"]]
    expected = np.corrcoef(plain.feature_distances(columns).T)
    result = feature_correlation(stimuli)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    part = feature_correlation(stimuli, features=["gender", "number"])
    np.testing.assert_allclose(part, expected[np.ix_([3, 0], [3, 0])], atol=1e-12)


def test_correlation_of_a_constant_feature_is_undefined(stimuli):
    constant = stimuli.assign_coords(number=("sentence", ["sg"] * 40))
    result = feature_correlation(constant)
    assert np.isnan(result.sel(feature="number")).all()
    assert np.isfinite(result.sel(feature="animate", other_feature="gender"))


def test_a_pair_takes_four_bytes():
    design = pair_design(features_of(random_codes(300, 2)))
    assert design.pairs.first.nbytes + design.pairs.second.nbytes == 4 * 300 * 299 // 2


def test_two_designs_are_kept_and_no_more(monkeypatch):
    built = []

    def counted(features, most):
        built.append(len(features.codes))
        return pair_patterns(features, most)

    monkeypatch.setattr("mlem_xr.kernels.design.pair_patterns", counted)
    codes = [random_codes(n, 2, seed=9) for n in (31, 32, 33)]
    for n in (0, 1, 0, 1, 2, 1, 0):
        pair_design(features_of(codes[n]))
    assert built == [31, 32, 33, 31]


def test_the_permutations_of_a_design_are_made_once(monkeypatch):
    made = []

    def counted(*arguments):
        made.append(arguments[2])
        return residuals(*arguments)

    monkeypatch.setattr("mlem_xr.kernels.design.residuals", counted)
    design = pair_design(features_of(random_codes(34, 3, seed=9)))
    for conditional in (False, "exact", "exact", False):
        assert design.permutations(conditional) is design.permutations(conditional)
    assert made == ["exact"] * 2


def test_bad_features_are_named(stimuli):
    with pytest.raises(InputError, match="^features: unknown value 'tense'; known: 'number'"):
        feature_distances(stimuli, features=["tense"])
    with pytest.raises(InputError, match="named twice"):
        feature_distances(stimuli, features=["number", "number"])
    with pytest.raises(InputError, match="empty list"):
        feature_distances(stimuli, features=[])
    with pytest.raises(InputError, match="^features: none found"):
        feature_distances(xr.Dataset(coords={"sentence": range(5)}))
    many = {f"f{i}": ("sentence", np.arange(5)) for i in range(65)}
    with pytest.raises(InputError, match="65 found; expected at most 64"):
        feature_distances(xr.Dataset(coords=many))


def test_too_few_sentences_for_the_folds_are_refused():
    with pytest.raises(Undefined, match="^folds: 4 sentences .* without training or validation"):
        pair_design(features_of(random_codes(4, 1)), folds="sentences")
