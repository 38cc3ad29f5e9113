import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

import mlem_xr as mx
from helpers import lazy
from mlem_xr.analyses.clusters import cluster_units
from mlem_xr.analyses.corrections import correct_p_values
from mlem_xr.schema import InputError

SCANNED = {"analysis": "univariate_importance", "zscore": False}
SCALES = ("relative", "zscore", None)


@pytest.fixture
def scan() -> xr.Dataset:
    """Two seeds, two layers, thirty units in three loose groups, three features."""
    rng = np.random.default_rng(5)
    importance = rng.uniform(0, 0.03, size=(2, 2, 30, 3))
    for group in range(3):
        importance[:, :, 10 * group + 2 * group : 10 * group + 10, group] += 0.3
    p_value = 10 ** rng.uniform(-6, -1, importance.shape)
    p_value[importance > 0.03] /= 100
    r2 = rng.uniform(0.3, 0.9, size=(2, 2, 30))
    r2[0, 0, :2] = [-0.1, np.nan]
    dims = ("seed", "layer", "unit", "feature")
    return xr.Dataset(
        {"importance": (dims, importance), "p_value": (dims, p_value), "r2": (dims[:3], r2)},
        {"seed": [0, 1], "layer": [1, 2], "unit": np.arange(30), "source": ("seed", ["x", "y"])},
        {"analysis": "univariate_importance", "settings": {"zscore": False}, "stimuli": "s"},
    )


def chunked(scan: xr.Dataset, **chunks: int) -> xr.Dataset:
    return scan.assign(
        {
            name: variable.chunk({dim: n for dim, n in chunks.items() if dim in variable.dims})
            for name, variable in scan.items()
        }
    )


def plain_rows(importance, p_value, r2, *, scale, alpha):
    """Loop over units and features."""
    corrected = false_discovery_control(p_value, axis=0)
    rows = np.zeros(importance.shape)
    for unit in range(len(rows)):
        for feature in range(rows.shape[1]):
            if corrected[unit, feature] <= alpha:
                rows[unit, feature] = importance[unit, feature]
                if scale == "relative":
                    rows[unit, feature] *= 1 / r2[unit] if r2[unit] > 0 else 0
    if scale == "zscore":
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return rows


def plain_clusters(rows, max_clusters=6):
    """Return labels, numbered by decreasing size, and silhouette."""
    best, best_score = None, -np.inf
    for k in range(2, max_clusters + 1):
        labels = KMeans(k, n_init=10, random_state=0).fit_predict(rows)
        if silhouette_score(rows, labels) > best_score:
            best, best_score = labels, silhouette_score(rows, labels)
    members = [np.flatnonzero(best == label) for label in set(best)]
    numbered = np.empty(len(rows))
    for number, group in enumerate(sorted(members, key=lambda m: (-len(m), m[0]))):
        numbered[group] = number
    return numbered, best_score


@pytest.mark.parametrize("scale", SCALES)
def test_clusters_are_those_of_the_plain_loop(scan, scale):
    result = cluster_units(scan, scale=scale, alpha=0.01)
    for seed in range(2):
        for layer in range(2):
            cell = scan.isel(seed=seed, layer=layer)
            values = [cell[name].values for name in ("importance", "p_value", "r2")]
            rows = plain_rows(*values, scale=scale, alpha=0.01)
            labels, score = plain_clusters(rows)
            found = result.isel(seed=seed, layer=layer)
            np.testing.assert_array_equal(found["cluster"], labels)
            assert found["silhouette"] == pytest.approx(score, rel=1e-9)
            assert found["n_clusters"] == len(set(labels))


def simulated(stimuli: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    """Units that carry number, animate or nothing, mixed; and the group of each."""
    rng = np.random.default_rng(0)
    group = rng.permutation([0] * 9 + [1] * 6 + [2] * 4)
    carried = np.stack(
        [stimuli["animate"].values, stimuli["number"].values == "sg", np.zeros(40)], axis=1
    )
    values = 3.0 * carried[:, group] + 0.1 * rng.normal(size=(40, len(group)))
    data = xr.Dataset(
        {"activation": (("layer", "sentence", "unit"), np.stack([values, values[:, ::-1]]))},
        {"layer": [1, 2]},
    )
    return data.assign_coords(stimuli.coords).assign_attrs(stimuli.attrs), group


@pytest.mark.parametrize("scale", SCALES)
def test_units_that_carry_the_same_feature_are_one_cluster(stimuli, scale):
    data, group = simulated(stimuli)
    scan = mx.univariate_importance(lazy(data), features=["number", "animate"])
    result = cluster_units(scan, scale=scale).compute()
    assert result["cluster"].sel(layer=1).values.tolist() == group.tolist()
    assert result["cluster"].sel(layer=2).values.tolist() == group[::-1].tolist()
    assert result["n_clusters"].values.tolist() == [3, 3]
    assert (result["silhouette"] > 0.6).all()


@pytest.mark.parametrize("chunks", [{}, {"seed": 1, "layer": 1}, {"unit": 7}, {"feature": 2}])
def test_lazy_results_are_those_of_numpy(scan, chunks):
    result = cluster_units(chunked(scan, **chunks))
    assert result["cluster"].chunksizes == {"seed": (1, 1), "layer": (1, 1), "unit": (30,)}
    assert result["source"].chunks is None
    eager = cluster_units(scan)
    assert eager["cluster"].chunks is None
    xr.testing.assert_identical(result.compute(scheduler="threads"), eager)


def test_nothing_is_computed_before_it_is_asked_for(scan):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        result = cluster_units(chunked(scan, layer=1, unit=10))
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()


def test_dims_and_labels(scan):
    result = cluster_units(scan, correction=None, random_state=3)
    assert result["cluster"].dims == ("seed", "layer", "unit")
    assert result["n_clusters"].dims == result["silhouette"].dims == ("seed", "layer")
    assert all(variable.dtype == np.float64 for variable in result.data_vars.values())
    assert set(result.coords) == set(scan.coords)
    assert result.attrs["analysis"] == "cluster_units"
    assert result.attrs["stimuli"] == "s"
    assert result.attrs["settings"] == {
        **{"scale": "relative", "alpha": 0.01, "correction": None, "max_clusters": 6},
        **{"random_state": 3, "univariate": SCANNED},
    }
    xr.testing.assert_identical(result, cluster_units(scan, correction=None, random_state=3))


def test_a_single_representation_and_a_turned_result_will_do(scan):
    result = cluster_units(scan)
    part = cluster_units(scan.isel(seed=1, layer=0))
    xr.testing.assert_equal(part, result.isel(seed=1, layer=0))
    turned = scan.transpose("feature", "unit", "layer", "seed")
    xr.testing.assert_equal(cluster_units(turned).transpose("seed", "layer", "unit"), result)


def test_units_without_results_belong_to_no_cluster(scan):
    names = ["importance", "p_value", "r2"]
    padded = scan.copy(deep=True)
    for name in names:
        padded[name][:, 1, 20:] = np.nan
        padded[name][1, 0] = np.nan
    result = cluster_units(padded)
    assert np.isnan(result["cluster"][:, 1, 20:]).all()
    assert result.isel(seed=1, layer=0).isnull().all().to_array().all()
    alone = cluster_units(scan.isel(layer=[1], unit=slice(0, 20)))
    xr.testing.assert_identical(result.isel(layer=[1], unit=slice(0, 20)), alone)
    assert result.isel(seed=0).notnull()["n_clusters"].all()


def test_constant_units_are_with_those_that_carry_nothing(stimuli):
    data, group = simulated(stimuli)
    constant = np.flatnonzero(group == 2)[0]
    data["activation"][0, :, constant] = 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = cluster_units(mx.univariate_importance(data))
    assert result["cluster"].sel(layer=1).values.tolist() == group.tolist()


def cell(importance, p=0.0) -> xr.Dataset:
    importance = np.array(importance, dtype=float)
    over = ("unit", "feature")
    return xr.Dataset(
        {
            "importance": (over, importance),
            "p_value": (over, np.full(importance.shape, float(p))),
            "r2": ("unit", np.ones(len(importance))),
        }
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "case",
    [
        cell([[0.1, 0.2]] * 9),
        cell(np.arange(18).reshape(9, 2), p=1),
        cell([[0.1, 0.2], [0.3, 0.1]]),
        cell([[0.1, 0.2]]),
    ],
    ids=["equal", "not significant", "two units", "one unit"],
)
def test_units_that_cannot_be_told_apart_are_one_cluster(case, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = cluster_units(case, scale=scale)
    assert (result["cluster"] == 0).all()
    assert result["n_clusters"] == 1
    assert np.isnan(result["silhouette"])


@pytest.mark.parametrize("scale", SCALES)
def test_there_are_no_more_clusters_than_distinct_units(scale):
    rows = [[0.1, 0.0], [0.1, 0.0], [0.0, 0.4], [0.1, 0.0], [0.0, 0.4], [0.3, 0.3]]
    noise = 1e-17 * np.random.default_rng(0).normal(size=(6, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = cluster_units(cell(np.array(rows) + noise), scale=scale)
        pair = cluster_units(cell([rows[0], rows[2], rows[2]]), scale=scale)
    assert result["cluster"].values.tolist() == [0, 0, 1, 0, 1, 2]
    assert result["n_clusters"] == 3
    assert pair["cluster"].values.tolist() == [1, 0, 0]


def test_clusters_are_numbered_by_size_and_then_by_their_first_unit():
    rows = np.eye(4)[[3, 1, 1, 0, 3, 2, 2, 2, 0]]
    result = cluster_units(cell(rows))
    assert result["cluster"].values.tolist() == [1, 2, 2, 3, 1, 0, 0, 0, 3]


def test_max_clusters_bounds_the_number(scan):
    rows = np.eye(5)[np.arange(20) % 5]
    assert cluster_units(cell(rows))["n_clusters"] == 5
    assert cluster_units(cell(rows), max_clusters=4)["n_clusters"] <= 4
    assert (cluster_units(scan, max_clusters=2)["n_clusters"] == 2).all()


def test_the_correction_decides_what_counts():
    """Two of four features' p-values pass alpha alone, but not among so many units."""
    case = cell(np.random.default_rng(0).uniform(size=(12, 4)))
    case["p_value"][:] = 0.5
    case["p_value"][:3, 0] = 0.009
    assert cluster_units(case)["n_clusters"] == 1
    assert cluster_units(case, correction="holm-sidak")["n_clusters"] == 1
    assert cluster_units(case, correction=None)["n_clusters"] > 1
    assert cluster_units(case, alpha=0.05)["n_clusters"] > 1


def test_what_was_corrected_is_not_corrected_again(scan):
    corrected = correct_p_values(scan)
    with pytest.raises(InputError, match="corrected already"):
        cluster_units(corrected)
    result = cluster_units(corrected, correction=None)
    xr.testing.assert_equal(result, cluster_units(scan))


def test_bad_input_is_named(scan):
    with pytest.raises(InputError, match="^scale: unknown value 'rel'; known: 'relative'"):
        cluster_units(scan, scale="rel")
    with pytest.raises(InputError, match="^correction: unknown value 'bh'; known: 'fdr'"):
        cluster_units(scan, correction="bh")
    for max_clusters in (1, 2.5):
        with pytest.raises(InputError, match=f"^max_clusters: found {max_clusters}"):
            cluster_units(scan, max_clusters=max_clusters)
    for alpha in (0, 1.5, np.nan, True, "a"):
        with pytest.raises(InputError, match="^alpha: found"):
            cluster_units(scan, alpha=alpha)
    with pytest.raises(InputError, match="^random_state: found -1"):
        cluster_units(scan, random_state=-1)
    with pytest.raises(InputError, match="^univariate: 'importance' has no dimension 'unit'"):
        cluster_units(scan.isel(unit=0))
    with pytest.raises(InputError, match="^univariate: 'importance' has no dimension 'feature'"):
        cluster_units(scan.isel(feature=0))
    with pytest.raises(InputError, match="^univariate: no variable 'r2'"):
        cluster_units(scan.drop_vars("r2"))
    with pytest.raises(InputError, match="^univariate: expected an xarray Dataset"):
        cluster_units(scan["importance"])


def test_the_input_stays_as_it_is(scan):
    before = scan.copy(deep=True)
    cluster_units(scan)
    xr.testing.assert_identical(scan, before)
