"""Distances that a function computes."""

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.spatial import distance as spatial
from sklearn.metrics import pairwise_distances

import mlem_xr as mx
from helpers import layers, lazy, refuse, write
from mlem_xr.kernels.distances import distance_matrix
from mlem_xr.kernels.errors import Undefined
from mlem_xr.schema import InputError

ANALYSES = [
    (mx.multivariate_importance, {}),
    (mx.multivariate_importance, {"folds": "sentences", "zscore": True}),
    (mx.univariate_importance, {}),
    (mx.randomization_test, {"n_draws": 9}),
    (mx.decompose, {}),
    (mx.mds, {}),
]


@pytest.fixture
def few(activations):
    return activations.isel(sentence=slice(0, 24), seed=[0], pooling=[0], layer=[0, 1])


@pytest.mark.parametrize("name", ["euclidean", "cosine", "chebyshev", "canberra"])
def test_a_function_gives_what_its_name_gives(few, name):
    """Functions of two vectors that SciPy has under the names of scikit-learn."""
    found = mx.distances(few, distance=getattr(spatial, name))
    expected = mx.distances(few, distance=name)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert found.attrs["long_name"] == f"function scipy.spatial.distance.{name} distance"


@pytest.mark.parametrize(("function", "options"), ANALYSES)
def test_every_analysis_takes_a_function(few, function, options):
    found = function(few, distance=spatial.canberra, **options)
    expected = function(few, distance="canberra", **options)
    xr.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.attrs["settings"]["distance"] == "function scipy.spatial.distance.canberra"


def test_top_units_and_the_estimator_take_a_function(few):
    best = mx.univariate_importance(few)
    found = mx.top_unit_importance(few, best, k=[1, 3], distance=spatial.cityblock)
    expected = mx.top_unit_importance(few, best, k=[1, 3], distance="cityblock")
    xr.testing.assert_allclose(found, expected, rtol=1e-9)
    values, table = (
        few["activation"].values[0, 0, 0, 0, 0],
        few[["number", "animate"]].to_dataframe(),
    )
    table = table[["number", "animate"]]
    own, named = (mx.MLEM(distance=d).fit(table, values) for d in (spatial.cityblock, "cityblock"))
    np.testing.assert_allclose(own.score(table, values), named.score(table, values))


def test_functions_that_differ_are_not_taken_for_each_other(few):
    """Lambdas of one name, written at one place, of which only what they hold differs."""
    data = lazy(few)
    with dask.config.set(scheduler=refuse):
        scaled = [
            mx.distances(data, distance=lambda a, b, f=f: f * abs(a - b).sum()) for f in (1, 2)
        ]
    one, two = dask.compute(*scaled)
    np.testing.assert_allclose(two, 2 * one)
    assert float(one.max()) > 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: a[0] - b[0], "distance: a distance of -"),
        (lambda a, b: max(a[0] - b[0], 0), "distance: distances that differ by .* there and back"),
        (lambda a, b: 1.0, "distance: a distance of 1.0 of a sentence to itself"),
        (lambda a, b: np.nan, "distance: NaN or infinite values"),
        (lambda a, b: None, "distance: NaN or infinite values"),
        (lambda a, b: a - b, "distance: the function failed .*; expected a number"),
    ],
)
def test_functions_that_are_no_distance_are_named(few, function, message):
    activation = few["activation"].values[0, 0, 0, 0, 0]
    with pytest.raises(Undefined, match=f"^{message}"):
        distance_matrix(activation, function)
    with pytest.raises(InputError, match=rf"^{message}.*\(in model=toy, seed=0, .*layer=1\)$"):
        mx.multivariate_importance(few, distance=function)


def test_a_function_is_not_saved_under_its_name(stimuli, tmp_path):
    store = mx.create_store(stimuli, tmp_path / "s.zarr", pooling=["mean"])
    write(store, layers(0).sel(pooling=["mean"]))
    result = mx.multivariate_importance(mx.open_store(store), distance=spatial.cityblock)
    with pytest.raises(
        InputError, match="its distance is the function scipy.*cityblock, and funct"
    ):
        mx.save_results(result, progress=False)
    assert mx.list_results(store).empty
    assert set(mx.to_dataframe(result)["feature"]) == set(stimuli.attrs["features"])
    # Kept apart, they are explained as distances that are there.
    distance = mx.distances(mx.open_store(store), distance=spatial.cityblock)
    distance.to_zarr(tmp_path / "distances.zarr", consolidated=False)
    kept = xr.open_zarr(tmp_path / "distances.zarr", consolidated=False)["distance"]
    found = mx.multivariate_importance(
        mx.open_store(store).assign(distance=kept), distance="precomputed"
    )
    xr.testing.assert_allclose(found["importance"].compute(), result["importance"].compute())


@pytest.mark.parametrize("function", [len, lambda: 0.0, lambda a, b, c: 0.0, float, 3])
def test_what_takes_no_two_sentences_is_refused_at_once(few, function):
    with pytest.raises(InputError, match="^distance: (found <|unknown value)"):
        mx.distances(few, distance=function)


def test_arrays_are_called_what_they_hold(stimuli, activations):
    assert mx.distances(activations).name == "distance"
    assert mx.feature_distances(stimuli).name == "feature_distance"
    assert mx.feature_correlation(stimuli).name == "feature_correlation"


def test_the_mahalanobis_distance_is_that_of_scikit_learn():
    """Also of units of very different sizes."""
    values = np.random.default_rng(0).normal(size=(40, 6)) * np.logspace(-9, 0, 6)
    found = distance_matrix(values, "mahalanobis")
    expected = pairwise_distances(values / np.logspace(-9, 0, 6), metric="mahalanobis")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["sum", "copy", "constant", "as many as sentences", "more"])
def test_units_that_depend_on_each_other_have_no_mahalanobis_distance(kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, {"as many as sentences": 20, "more": 30}.get(kind, 5)))
    if kind in ("sum", "copy", "constant"):
        own = {"sum": values[:, 1:].sum(axis=1), "copy": 3 * values[:, 1] + 1, "constant": 0.1}
        values[:, 0] = own[kind]
    with pytest.raises(
        Undefined, match="'mahalanobis' cannot be computed .*: expected fewer units"
    ):
        distance_matrix(values, "mahalanobis")


def test_a_vector_of_zeros_has_no_cosine_distance():
    values = np.random.default_rng(0).normal(size=(20, 5))
    assert np.isfinite(distance_matrix(values, "cosine")).all()
    values[[3, 7]] = 0
    with pytest.raises(Undefined, match="'cosine' is undefined .* of sentence 3"):
        distance_matrix(values, "cosine")
    # Where all sentences are the same, they are no distance apart.
    assert not distance_matrix(np.zeros((20, 5)), "cosine").any()
