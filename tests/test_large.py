"""Every analysis of the set `large`: undefined values, numbers, and more features than are counted
out in `decompose`."""

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LinearRegression

import mlem_xr as mx
from mlem_xr.kernels.decompose import MOST_EXACT

ENCODED = {"verb_finite", "sentence_length"}
"""One that is categorical and one that is numeric."""


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    """A layer of 8 units, of which each encodes one of the two features."""
    stimuli = mx.generate_stimuli("large", n_sentences=126)
    rng = np.random.default_rng(0)
    finite, length = stimuli["verb_finite"].values, stimuli["sentence_length"].values
    signal = np.stack([3.0 * finite, length - length.mean()], axis=1)[:, [0, 1] * 4]
    activation = signal + rng.normal(0, 0.5, signal.shape)
    return mx.from_arrays(activation, stimuli, dims=("sentence", "unit"))


@pytest.fixture(autouse=True)
def _quiet():
    """Which features are too rare for 126 sentences is said, and asserted elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def two_largest(values: xr.DataArray) -> set[str]:
    over = values.mean([dim for dim in values.dims if dim != "feature"])
    return set(over.to_series().nlargest(2).index)


@pytest.mark.parametrize(
    "options",
    [
        {"folds": "pairs"},
        {"folds": "sentences"},
        {"folds": "sentences", "scale": "squared"},
        {"folds": "pairs", "conditional": True},
        {"folds": "sentences", "conditional": True},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_importances_of_a_layer(data: xr.Dataset, options: dict) -> None:
    # What the others predict of a feature is expensive.
    some = data.isel(sentence=slice(None, None, 2)) if "conditional" in options else data
    result = mx.multivariate_importance(some, **options)
    assert two_largest(result["importance"]) == ENCODED
    assert np.isfinite(result["importance"]).all() and float(result["r2"].mean()) > 0.5


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_importances_of_units(data: xr.Dataset, folds: str) -> None:
    result = mx.univariate_importance(data, folds=folds).load()
    best = result["importance"].idxmax("feature").values.tolist()
    assert best == ["verb_finite", "sentence_length"] * 4
    top = mx.top_unit_importance(data, result, k=2, folds=folds)
    assert np.isfinite(top["importance"].sel(feature=list(ENCODED))).all()


@pytest.mark.parametrize("per", ["layer", "unit"])
def test_randomization(data: xr.Dataset, per: str) -> None:
    result = mx.randomization_test(data, per=per, n_draws=39)
    assert two_largest(result["statistic"]) == ENCODED
    significant = (result["p_value_max"] <= 0.05).any([d for d in result.dims if d != "feature"])
    assert set(significant["feature"].values[significant.values]) >= ENCODED
    assert int(significant.sum()) < 8


def test_parts_are_sampled_beyond_what_is_counted_out(data: xr.Dataset) -> None:
    assert len(data.attrs["features"]) > MOST_EXACT
    result = mx.decompose(data)
    assert two_largest(result["share"]) == ENCODED
    assert (result["share_std_error"] > 0).any()
    assert float(result["share"].sum()) == pytest.approx(float(result["r2"][-1]), abs=0.05)


def test_decoding(data: xr.Dataset) -> None:
    with pytest.warns(UserWarning, match="bound_variable cannot be decoded"):
        auc = mx.decoding_baseline(data)["auc"]
    assert float(auc.sel(feature="verb_finite")) > 0.99
    assert float(auc.sel(feature="sentence_length")) > 0.8
    assert abs(float(auc.sel(feature="mean_zipf")) - 0.5) < 0.15


def test_distances_and_their_map(data: xr.Dataset) -> None:
    position = mx.mds(data)["position"]
    length = data["sentence_length"].values
    assert LinearRegression().fit(position.values, length).score(position.values, length) > 0.9
    distance = mx.distances(data).values
    np.testing.assert_allclose(distance, distance.T)
    assert (distance[np.triu_indices(126, 1)] > 0).all()
