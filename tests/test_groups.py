"""Features that are permuted together, against plain loops over pairs."""

from itertools import combinations

import dask
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
import plain
from helpers import N, layers, save, write
from mlem_xr.schema import InputError

GROUPS = {"agreement": ["number", "gender"], "all": ["number", "gender", "length"], "one": "length"}
NAMES = ["number", "gender", "length"]


def data_of(n=36, seed=0, *, few=True):
    rng = np.random.default_rng(seed)
    number, gender = rng.integers(0, 2, n), rng.integers(0, 3, n)
    length = rng.integers(0, 4, n) * 1.0 if few else rng.normal(size=n)
    units = rng.normal(size=(n, 3)) + 1.5 * number[:, np.newaxis] + length[:, np.newaxis]
    units += gender[:, np.newaxis] * [1, 0, 2]
    coords = {"number": ("sentence", number), "gender": ("sentence", gender)}
    coords["length"] = ("sentence", length, {"kind": "numeric"})
    return xr.Dataset({"activation": (("sentence", "unit"), units)}, coords=coords)


def distances_of(data):
    kinds = ["categorical", "categorical", "numeric"]
    columns = [data[name].values for name in NAMES[:2]] + [data["length"].values[:, np.newaxis]]
    return plain.distances_of_kinds(columns, kinds)


def target_of(data, unit, options):
    values = data["activation"].values
    values = values if unit is None else values[:, [unit]]
    min_max = options.get("folds", "pairs") == "pairs"
    return plain.target(values, "euclidean", min_max=min_max, zscore=False)


def expected_of(x, y, result, group, options, permuted=None):
    """Importance and error of a group, from the weights that were found.

    Every pair gets the feature distances of every pair of its fold, those of the group together.
    """
    over_sentences = options.get("folds") == "sentences"
    n = round((1 + np.sqrt(1 + 8 * len(y))) / 2)
    splits = plain.sentence_splits(n, 0) if over_sentences else plain.pair_splits(len(y), 0)
    pairs = np.array(list(combinations(range(n), 2)))
    members = [NAMES.index(name) for name in np.atleast_1d(GROUPS[group])]
    weight = result["weight"].sel(feature=NAMES).values
    increases, square = [], 0.0
    n_tested = sum(len(test) for *_, test in splits)
    for fold, (*_, test) in enumerate(splits):
        w, own = weight[fold], x[test]
        values = own if permuted is None else permuted[fold]
        part = values[:, members] @ w[members]
        r = y[test] - float(result["intercept"][fold]) - own @ w
        step = part[np.newaxis, :] - part[:, np.newaxis]
        increase = (step * (step - 2 * r[:, np.newaxis])).mean(axis=1)
        increases.append(increase)
        c, r0 = part - part.mean(), r - r.mean()
        psi = 2 * c**2 + 2 * c * r0
        error = plain.u_statistic_error(psi, pairs[test], np.arange(n)) if over_sentences else 0.0
        square += (len(test) / n_tested) ** 2 * error
    increase = np.concatenate(increases)
    if over_sentences:
        return increase.mean(), np.sqrt(square)
    return increase.mean(), increase.std(ddof=1) / np.sqrt(len(increase))


@pytest.mark.parametrize("few", [True, False], ids=["patterns", "pairs"])
@pytest.mark.parametrize("options", [{}, {"folds": "sentences"}], ids=str)
def test_groups_have_the_importance_of_all_permutations_of_them(options, few, monkeypatch):
    if not few:
        monkeypatch.setattr("mlem_xr.kernels.explain_patterns.worthwhile", lambda n: 0)
    data = data_of(few=few)
    x = distances_of(data)
    scan = mx.univariate_importance(data, groups=GROUPS, **options)
    layer = mx.multivariate_importance(data, groups=GROUPS, **options)
    for unit, result in [(None, layer), (1, scan.sel(unit=1))]:
        y = target_of(data, unit, options)
        for group in GROUPS:
            own = result.sel(feature=group)
            importance, error = expected_of(x, y, result, group, options)
            tolerance = 1e-8 if unit is None else 1e-5
            assert float(own["importance"]) == pytest.approx(importance, rel=tolerance)
            assert float(own["std_error"]) == pytest.approx(error, rel=10 * tolerance)
            assert np.isnan(own["weight"]).all()


def test_features_beside_groups_stay_as_they_are():
    data = data_of(few=False)
    for options in ({}, {"folds": "sentences"}):
        alone = mx.multivariate_importance(data, **options)
        result = mx.multivariate_importance(data, groups=GROUPS, **options)
        assert result["feature"].values.tolist() == [*NAMES, *GROUPS]
        xr.testing.assert_allclose(result.sel(feature=NAMES), alone)
        one = result.sel(feature=["one"]).drop_vars("weight")
        length = result.sel(feature=["length"]).drop_vars("weight")
        xr.testing.assert_allclose(one.assign_coords(feature=["length"]), length)


@pytest.mark.parametrize("conditional", ["exact", True])
def test_conditionally_what_is_outside_a_group_predicts_it(conditional):
    data = data_of()
    x, y = distances_of(data), target_of(data, None, {})
    result = mx.multivariate_importance(data, groups=GROUPS, conditional=conditional)
    whole = expected_of(x, y, mx.multivariate_importance(data, groups=GROUPS), "all", {})
    assert float(result["importance"].sel(feature="all")) == pytest.approx(whole[0])
    if conditional == "exact":
        permuted = []
        for *_, test in plain.pair_splits(len(y), 0):
            own, outside = x[test], x[test][:, 2]
            means = np.zeros_like(own)
            for value in np.unique(outside):
                means[outside == value] = own[outside == value].mean(axis=0)
            permuted.append(own - means)
        importance, error = expected_of(x, y, result, "agreement", {}, permuted)
        own = result.sel(feature="agreement")
        assert float(own["importance"]) == pytest.approx(importance)
        assert float(own["std_error"]) == pytest.approx(error)


def test_the_items_that_all_features_of_a_group_share_are_the_units_of_its_error():
    data = data_of()
    noun = np.arange(36) % 12
    data = data.assign_coords(
        number=("sentence", (noun % 2)), gender=("sentence", noun % 3), noun=("sentence", noun)
    )
    options = {"features": NAMES, "folds": "sentences", "groups": GROUPS}
    items = {"number": "noun", "gender": "noun"}
    alone = mx.multivariate_importance(data, **options, items={})
    found = mx.multivariate_importance(data, **options, items=items)
    ratio = found["std_error"] / alone["std_error"]
    assert float(ratio.sel(feature="agreement")) != pytest.approx(1)
    assert float(ratio.sel(feature="all")) == pytest.approx(1)


def test_groups_are_saved_opened_and_lazy(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "groups.zarr", pooling=["first-token", "mean"])
    write(path, layers(n=N))
    groups = {"agreement": ["number", "gender"]}
    acts = mx.open_store(path)
    result = mx.univariate_importance(acts, groups=groups)
    with dask.config.set(scheduler="sync"):
        assert save(result)["computed"] == 6
        save(mx.univariate_importance(acts))
    opened = mx.open_results(path, "univariate_importance", groups=groups)
    assert opened["feature"].values.tolist() == [*stimuli.attrs["features"], "agreement"]
    assert np.isfinite(opened["importance"]).all()
    assert "agreement" not in mx.open_results(path, "univariate_importance")["feature"]
    table = mx.to_dataframe(opened)
    assert set(table["feature"]) == {*stimuli.attrs["features"], "agreement"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"number": ["gender"]}, "groups: 'number' is a feature; expected another name"),
        ({"a": ["tense"]}, "groups: 'a': unknown value 'tense'; known: 'number'"),
        ({"a": []}, "groups: 'a': an empty list"),
        ({"a": ["number", "number"]}, "groups: 'a': some are named twice"),
        (["number"], "groups: found \\['number'\\]; expected a mapping"),
        ({1: ["number"]}, "groups: found 1; expected the name of a group"),
    ],
)
def test_groups_that_cannot_be_are_named(groups, message):
    with pytest.raises(InputError, match=message):
        mx.multivariate_importance(data_of(), groups=groups)
