"""Activations from anywhere: arrays with any leading dimensions."""

import itertools

import dask
import dask.array as da
import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import mlem_xr as mx
from helpers import lazy, refuse
from mlem_xr.analyses import ANALYSES
from mlem_xr.schema import RESERVED, InputError

N = 24
LEADING = ("subject", "roi", "time")
DIMS = {
    "subject": ["anna", "ben"],
    "roi": ["IFG", "STG"],
    "time": [-0.1, 0.0, 0.25],
    "sentence": None,
    "unit": None,
}


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"number": rng.permutation(["sg", "pl"] * (N // 2)), "long": np.arange(N) % 3}
    )


@pytest.fixture
def voxels(table) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 2, 3, N, 4))
    values[1, ..., 0] += 3 * (table["number"] == "sg").to_numpy()
    values[:, 1, :, :, 1] += table["long"].to_numpy()
    return values


@pytest.fixture
def brains(voxels, table) -> xr.Dataset:
    return mx.from_arrays(voxels, table, dims=DIMS)


def test_features_may_be_a_table_of_another_library(voxels, table, brains) -> None:
    """Without sentences as well; of several tables one has to be named."""
    arrow = pytest.importorskip("pyarrow").Table.from_pandas(table)
    assert mx.from_arrays(voxels, arrow, dims=DIMS).identical(brains)
    with pytest.raises(InputError, match=r"^features: found the tables 'train', 'test'; expected"):
        mx.from_arrays(voxels, {"train": arrow, "test": arrow}, dims=DIMS)


SCAN = {"folds": "sentences"}

EVERY = {
    "multivariate": lambda data: mx.multivariate_importance(data),
    "folds of sentences": lambda data: mx.multivariate_importance(data, folds="sentences"),
    "cosine": lambda data: mx.multivariate_importance(data, distance="cosine"),
    "function": lambda data: mx.multivariate_importance(
        data, distance=lambda a, b: np.abs(a - b).max()
    ),
    "univariate": lambda data: mx.univariate_importance(data, **SCAN),
    "univariate, pairs": lambda data: mx.univariate_importance(data),
    "top units": lambda data: mx.top_unit_importance(
        data, mx.univariate_importance(data), k=[1, 3]
    ),
    "clusters": lambda data: mx.cluster_units(mx.univariate_importance(data, **SCAN)),
    "corrected": lambda data: mx.correct_p_values(mx.univariate_importance(data, **SCAN)),
    "test": lambda data: mx.randomization_test(data, n_draws=9),
    "test of units": lambda data: mx.randomization_test(data, per="unit", n_draws=9),
    "test of groups": lambda data: mx.randomization_test(
        data, groups={"both": ["number", "long"]}, n_draws=9
    ),
    "decompose": lambda data: mx.decompose(data),
    "decoding": lambda data: mx.decoding_baseline(data, features=["number"]),
    "distances": lambda data: mx.distances(data).to_dataset(name="distance"),
    "mds": lambda data: mx.mds(data, init="classical"),
}
"""Every analysis of activations."""


@pytest.mark.parametrize("name", EVERY)
def test_an_analysis_goes_over_all_leading_dimensions_as_a_loop_does(brains, name):
    found = EVERY[name](brains)
    for variable in found.values():
        assert variable.dims[:3] == LEADING
    for where in itertools.product(*(range(brains.sizes[dim]) for dim in LEADING)):
        one = dict(zip(LEADING, where, strict=True))
        alone = EVERY[name](brains.isel(one, drop=True))
        for variable in alone.values():
            part = found[variable.name].isel(one).transpose(*variable.dims)
            np.testing.assert_allclose(part, variable, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_an_analysis_of_lazy_arrays_waits_and_is_the_same(brains, name):
    with dask.config.set(scheduler=refuse):
        waiting = EVERY[name](lazy(brains, subject=1, time=2, unit=3))
        assert all(dask.is_dask_collection(v) for v in waiting.values() if v.dtype.kind == "f")
    xr.testing.assert_allclose(waiting.compute(), EVERY[name](brains), rtol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_activations_of_half_precision_are_as_good_as_others(brains, name):
    half = brains.assign(activation=brains["activation"].astype(np.float16))
    single = half.assign(activation=half["activation"].astype(np.float32))
    xr.testing.assert_allclose(EVERY[name](half), EVERY[name](single), rtol=1e-6)


def test_every_representation_is_a_task_of_its_own(brains):
    result = mx.multivariate_importance(lazy(brains, unit=2))
    assert result["r2"].chunksizes == {"subject": (1, 1), "roi": (1, 1), "time": (1, 1, 1)}


def test_every_analysis_is_among_them():
    names = {EVERY[name].__code__.co_names[1:] for name in EVERY}
    assert {*ANALYSES, "distances"} <= set(itertools.chain(*names))


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=lambda analysis: analysis.name)
def test_dimensions_of_results_are_no_names_for_those_of_callers(analysis):
    """Otherwise they would be taken for leading ones."""
    required = {"k": [1]} if analysis.name == "top_unit_importance" else {}
    given = {n: True for n in analysis.options.names() if analysis.options.kind(n) is bool}
    outputs = analysis.outputs(analysis.options(**given, **required))
    dims = {dim.removeprefix("other_") for output in outputs.values() for dim in output.dims}
    assert dims <= RESERVED


def test_layers_are_concatenated_within_every_other_dimension(voxels, table):
    dims = {"subject": None, "layer": [3, 7], "time": None, "sentence": None, "unit": None}
    data = mx.from_arrays(voxels, table, dims=dims)
    for given in (data, lazy(data, subject=1)):
        whole = mx.concatenate_layers(given)["activation"]
        assert whole.dims == ("subject", "time", "layer", "sentence", "unit")
        for i, layer in enumerate((3, 7)):
            part = whole.sel(layer="net").isel(unit=whole.unit_layer == layer)
            np.testing.assert_array_equal(part, voxels[:, i])


def test_a_table_has_a_column_for_every_leading_dimension(brains):
    result = mx.multivariate_importance(brains)
    table = mx.to_dataframe(result)
    assert len(table) == 2 * 2 * 3 * 2
    assert table.columns[:4].tolist() == [*LEADING, "feature"]
    indexed = table.set_index([*LEADING, "feature"])["importance"].to_xarray()
    xr.testing.assert_allclose(
        indexed.sel({dim: result[dim] for dim in indexed.dims}), result["importance"].drop_attrs()
    )
    selected = mx.to_dataframe(result.sel(subject="ben", time=0.25))
    assert selected.columns[:4].tolist() == ["subject", "time", "roi", "feature"]
    assert set(selected["subject"]) == {"ben"}
    nothing = result.where(result["subject"] == "ben")
    assert set(mx.to_dataframe(nothing)["subject"]) == {"ben"}


def test_leading_dimensions_stand_before_those_of_a_store(voxels, table):
    dims = {"seed": [1, 2], "roi": None, "layer": [1, 2, 3], "sentence": None, "unit": None}
    result = mx.multivariate_importance(mx.from_arrays(voxels, table, dims=dims))
    assert mx.to_dataframe(result).columns[:4].tolist() == ["roi", "seed", "layer", "feature"]


def test_what_was_not_measured_is_nan_and_has_no_row(brains):
    brains["activation"][0, 1] = np.nan
    brains["activation"][1, 1, :, :, 3] = np.nan
    result = mx.univariate_importance(brains)
    assert np.isnan(result["importance"][0, 1]).all()
    assert np.isnan(result["importance"][1, 1, :, 3]).all()
    table = mx.to_dataframe(result)
    counts = table.groupby(["subject", "roi"]).unit.nunique().to_dict()
    assert counts == {("anna", "IFG"): 4, ("ben", "IFG"): 4, ("ben", "STG"): 3}


def test_an_error_names_the_labels(brains):
    brains["activation"][1, 0, 2, 5, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN .* in subject=ben, roi=IFG, time=0.25"):
        mx.mds(brains)
    with pytest.raises(InputError, match=r"NaN .* in roi=IFG, subject=ben, time=0.25"):
        mx.mds(brains.sel(roi="IFG"))


ARRAYS = {
    "NumPy": lambda values: values,
    "read-only": lambda values: np.broadcast_to(values, values.shape),
    "Dask": lambda values: da.from_array(values, chunks=2),
    "list": lambda values: values.tolist(),
    "tensor": lambda values: torch.tensor(values, requires_grad=True),
    "masked": lambda values: np.ma.masked_array(values, mask=False),
    "DataArray": lambda values: xr.DataArray(values, dims=list(DIMS)),
    "lazy DataArray": lambda values: xr.DataArray(values, dims=list(DIMS)).chunk(),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_all_kinds_are_the_same(voxels, table, brains, kind):
    found = mx.from_arrays(ARRAYS[kind](voxels), table, dims=DIMS)
    xr.testing.assert_identical(found.compute(), brains)
    assert dask.is_dask_collection(found) == ("Dask" in kind or "lazy" in kind)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "bool"])
def test_numbers_of_all_kinds_are_taken(voxels, table, dtype):
    values = voxels.round().astype(dtype)
    found = mx.from_arrays(values, table, dims=list(DIMS))["activation"]
    assert found.dtype == (dtype if "float" in dtype else "float64")
    np.testing.assert_array_equal(found, values)
    assert (
        mx.multivariate_importance(
            found.to_dataset().assign_coords(number=("sentence", table["number"]))
        )
        .r2.notnull()
        .all()
    )


def test_a_masked_value_is_missing(voxels, table):
    mask = np.zeros(voxels.shape, bool)
    mask[0, 0] = True
    found = mx.from_arrays(np.ma.masked_array(voxels, mask), table, dims=DIMS)["activation"]
    np.testing.assert_array_equal(found.isnull(), mask)


def test_dimensions_may_be_in_any_order(voxels, table, brains):
    order = ("unit", "time", "sentence", "roi", "subject")
    axes = [list(DIMS).index(dim) for dim in order]
    found = mx.from_arrays(voxels.transpose(axes), table, dims={dim: DIMS[dim] for dim in order})
    assert found["activation"].dims == ("time", "roi", "subject", "sentence", "unit")
    xr.testing.assert_identical(
        found["activation"].transpose(*brains["activation"].dims), brains["activation"]
    )


def test_labels_and_coordinates_of_a_data_array_are_kept(brains, table):
    array = brains["activation"].reset_coords(drop=True).assign_coords(age=("subject", [31, 46]))
    found = mx.from_arrays(array, table)
    xr.testing.assert_identical(found, brains.assign_coords(age=("subject", [31, 46])))
    assert mx.multivariate_importance(found)["age"].values.tolist() == [31, 46]
    changed = mx.from_arrays(array, table, dims=DIMS | {"roi": [4, 45]})
    assert changed["roi"].values.tolist() == [4, 45]


def test_rows_in_another_order_are_refused(brains, table):
    array = brains["activation"].reset_coords(drop=True)
    shuffled = array.isel(sentence=np.random.default_rng(0).permutation(N))
    with pytest.raises(InputError, match=r"sentences have the labels .*drop_vars\('sentence'\)"):
        mx.from_arrays(shuffled, table)
    mx.from_arrays(shuffled.drop_vars("sentence"), table)
    stimuli = mx.read_stimuli("short_sentence").isel(sentence=slice(100, 100 + N))
    with pytest.raises(
        InputError, match="its sentences have the labels 0, 1, 2, ..., the table's 100"
    ):
        mx.from_arrays(array, stimuli)
    same = array.assign_coords(sentence=np.arange(100, 100 + N))
    assert mx.from_arrays(same, stimuli)["sentence"].values[0] == 100


def test_sentences_come_along_where_there_are_some(voxels, table, tmp_path):
    text = table.assign(sentence=[f"Sentence {row}." for row in range(N)])
    stimuli = mx.read_stimuli(text, items=["long"])
    text.to_csv(tmp_path / "text.csv", index=False)
    for given in (text, stimuli, tmp_path / "text.csv"):
        found = mx.from_arrays(voxels, given, dims=DIMS)
        assert found["text"].values[3] == "Sentence 3."
        assert found.attrs["stimuli_hash"] == mx.read_stimuli(given).attrs["stimuli_hash"]
    assert mx.from_arrays(voxels, stimuli, dims=DIMS).attrs["items"] == ["long"]
    bare = stimuli.drop_vars("text")
    found = mx.from_arrays(voxels, bare, dims=DIMS)
    assert "text" not in found
    assert found.attrs == {"features": ["number"], "items": ["long"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": None}, "dims: none given"),
        ({"dims": ["subject", "sentence", "unit"]}, "dims: .*expected 5 names, .* shape"),
        ({"dims": [*LEADING, "sentence", "voxel"]}, "dims: .*which lack 'unit'"),
        ({"dims": ["roi", *LEADING[1:], "sentence", "unit"]}, "dims: some are named twice"),
        ({"dims": DIMS | {"subject": ["a", "a"]}}, "dims: labels of 'subject' are .* different"),
        ({"dims": DIMS | {"subject": ["a"]}}, "dims: labels of 'subject' are .*expected 2"),
        ({"dims": DIMS | {"subject": ["a", 1]}}, "dims: labels of 'subject'"),
        ({"dims": DIMS | {"subject": [1, np.nan]}}, "dims: labels of 'subject'"),
        ({"dims": ["k", *LEADING[1:], "sentence", "unit"]}, "dims: found 'k'; expected a name"),
        ({"dims": ["other_x", *LEADING[1:], "sentence", "unit"]}, "dims: found 'other_x'"),
        (
            {"dims": ["number", *LEADING[1:], "sentence", "unit"]},
            "'number' is a column of features",
        ),
        ({"features": {"number": [1, 2]}}, "features: found"),
        ({"activations": "x"}, "activations: found dtype <U1; expected numbers"),
        ({"activations": [[1], [1, 2]]}, "activations: found list, which NumPy cannot take"),
        ({"activations": np.ones((2, 2, 3, N, 4), complex)}, "activations: found dtype complex"),
        ({"activations": np.ones((2, 2, 3, 7, 4))}, "activations: 7 sentences; expected 24"),
        ({"activations": np.ones((2, 2, 3, N, 0))}, "an empty selection, with no unit"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(voxels, table, change, message):
    given = {"activations": voxels, "features": table, "dims": DIMS} | change
    with pytest.raises(InputError, match=message):
        mx.from_arrays(given["activations"], given["features"], dims=given["dims"])


def test_a_dimension_called_like_a_result_is_refused(brains):
    with pytest.raises(InputError, match="dimension 'r2', as is called what multivariate"):
        mx.multivariate_importance(brains.rename(roi="r2"))
    assert mx.mds(brains.rename(roi="r2"), init="classical")["position"].dims[1] == "r2"


def test_a_feature_called_like_a_result_is_refused(voxels, table):
    data = mx.from_arrays(voxels, table.assign(distance=np.arange(N) % 2), dims=DIMS)
    with pytest.raises(InputError, match="^activations: they have the coordinate 'distance', as"):
        mx.distances(data)
    assert "distance" in mx.multivariate_importance(data)["feature"]


def test_a_dimension_may_have_any_name_in_tables(brains):
    result = mx.multivariate_importance(brains.rename(roi="representation"))
    expected = mx.to_dataframe(mx.multivariate_importance(brains))
    found = mx.to_dataframe(result).rename(columns={"representation": "roi"})
    pd.testing.assert_frame_equal(found[expected.columns], expected)


def test_stacked_dimensions_are_refused(brains):
    with pytest.raises(InputError, match="'cell', which is stacked from several; .*unstack"):
        mx.mds(brains.stack(cell=("subject", "roi")))


def test_results_of_no_store_are_kept_by_themselves(brains, tmp_path):
    for data in (brains, brains.assign_attrs(stimuli_hash="x")):
        result = mx.multivariate_importance(data).assign_attrs(stimuli_hash="x")
        for store in (None, tmp_path / "x.zarr"):
            with pytest.raises(InputError, match=r"^result: it has no .*to_zarr\(path\) keeps it"):
                mx.save_results(result, store)
    for name in ("multivariate", "univariate", "mds"):
        result = EVERY[name](brains)
        result.to_zarr(tmp_path / f"{name}.zarr", zarr_format=2)
        opened = xr.open_zarr(tmp_path / f"{name}.zarr")
        xr.testing.assert_identical(opened.compute(), result)


def frames(figure) -> dict:
    """Return the sliders of a figure and how many values each has."""
    assert isinstance(figure, hv.HoloMap)
    keys = zip(*figure.keys(), strict=True)
    return {d.name: len(set(k)) for d, k in zip(figure.kdims, keys, strict=True)}


def test_leading_dimensions_become_sliders(brains):
    scan = mx.univariate_importance(brains, **SCAN)
    whole = {"subject": 2, "roi": 2, "time": 3}
    profile = mx.multivariate_importance(brains)
    decoded = mx.decoding_baseline(brains, features=["number"])
    assert frames(mx.plot.feature_importance(profile, decoding=decoded)) == whole
    assert frames(mx.plot.decoding(decoded)) == whole
    assert frames(mx.plot.mds(mx.mds(brains, init="classical"))) == whole
    best = mx.top_unit_importance(brains, scan, k=[1, 2])
    assert frames(mx.plot.top_k(best)) == whole
    test = mx.randomization_test(brains, per="unit", n_draws=9)
    assert frames(mx.plot.unit_map(scan, significant=test)) == whole | {"feature": 2}
    assert frames(mx.plot.unit_distribution(scan, significant=test)) == whole
    groups = mx.cluster_units(scan)
    drawn = frames(mx.plot.clusters(scan, groups))
    assert whole.items() <= drawn.items()
    difference = mx.plot.compare(profile.sel(subject="anna"), profile.sel(subject="ben"))
    assert [frames(part) for part in difference] == [{"roi": 2, "time": 3}] * 3
    assert difference[2].last.label.startswith("anna − ben")


def test_titles_name_the_labels_that_are_selected(brains):
    profile = mx.multivariate_importance(brains).sel(roi="STG").isel(subject=[1])
    assert "subject ben, roi STG" in mx.plot.feature_importance(profile).last.label


def test_significance_of_other_subjects_is_refused(brains):
    scan = mx.univariate_importance(brains, **SCAN)
    test = mx.randomization_test(brains, per="unit", n_draws=9)
    with pytest.raises(InputError, match="^significant: no p-values for subject 'ben'"):
        mx.plot.unit_map(scan, significant=test.sel(subject=["anna"]))
    with pytest.raises(InputError, match="^significant: it has the dimension 'subject'"):
        mx.plot.unit_map(scan.isel(subject=0, drop=True), significant=test)
