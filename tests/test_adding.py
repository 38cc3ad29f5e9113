"""Activations from anywhere in a store: as if `record` had written them."""

import json

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

import mlem_xr as mx
from helpers import N, layers, write
from mlem_xr.schema import InputError
from mlem_xr.store import activations as stores


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def values():
    """(layer, sentence, unit)"""
    return layers(0, pooling=["mean"])[0].values


def checkpoint(path, **labels):
    labels = {"model": "brain", "seed": 0, "step": -1} | labels
    return mx.open_store(path).sel(labels)


def test_it_is_written_as_record_writes_it(path, stimuli, values, tmp_path):
    found = mx.add_activations(path, values, model="toy", pooling="mean", stimuli=stimuli)
    assert found.to_dict("records") == [
        {"model": "toy", "seed": 0, "step": -1, "status": "recorded"}
    ]
    other = mx.create_store(stimuli, tmp_path / "other.zarr", pooling=["mean"])
    write(other, layers(0, pooling=["mean"]))
    drop = ["provenance"]
    found, expected = (mx.open_store(p).drop_vars(drop).drop_attrs() for p in (path, other))
    xr.testing.assert_identical(found, expected)


def test_every_analysis_is_saved_and_opened(path, stimuli, values):
    mx.add_activations(path, values, model="brain", stimuli=stimuli)
    data = mx.open_store(path)
    scan = mx.univariate_importance(data)
    for result in (
        *(scan, mx.multivariate_importance(data), mx.mds(data, init="classical")),
        *(mx.cluster_units(scan), mx.randomization_test(data, n_draws=9)),
        *(mx.top_unit_importance(data, scan, k=[1, 2]), mx.decoding_baseline(data)),
    ):
        saved = mx.save_results(result, progress=False)
        saved = saved.drop_vars("computed_from").compute()
        expected = result.drop_vars("computed_from", errors="ignore").compute()
        xr.testing.assert_allclose(saved, expected)
    alone = mx.from_arrays(values, stimuli, dims=["layer", "sentence", "unit"])
    expected = mx.multivariate_importance(alone)
    found = mx.open_results(path, "multivariate_importance").squeeze()
    np.testing.assert_allclose(found["importance"], expected["importance"], rtol=1e-6)


KINDS = {
    "list": lambda v: v.tolist(),
    "float64": lambda v: v.astype(float),
    "Dask": lambda v: da.from_array(v, chunks=3),
    "tensor": torch.tensor,
    "DataArray": lambda v: xr.DataArray(v, {"layer": [1, 2, 3]}, ("layer", "sentence", "unit")),
    "transposed": lambda v: xr.DataArray(v, {"layer": [1, 2, 3]}, ("layer", "sentence", "unit")).T,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_all_kinds_are_the_same(path, stimuli, values, kind):
    mx.add_activations(path, values, model="brain", stimuli=stimuli)
    again = mx.add_activations(path, KINDS[kind](values), model="brain")
    assert again["status"].tolist() == ["skipped"]


def test_dimensions_are_the_last_ones_of_a_store(path, stimuli):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 2, 1, 2, 3, N, 4)).astype(np.float32)
    options = {"step": [5], "pooling": ["max", "mean"]}
    mx.add_activations(path, values, model=["a", "b"], stimuli=stimuli, **options)
    data = mx.open_store(path)
    np.testing.assert_array_equal(data["activation"].sel(pooling=["max", "mean"]), values)
    assert data["seed"].values.tolist() == [0, 1]
    assert data["layer"].values.tolist() == [1, 2, 3]
    for n in (2, 3, 4):
        where = (0,) * (7 - n)
        single = {"pooling": "x"} if n < 4 else {"pooling": ["x", "y"]}
        mx.add_activations(path, values[where], model=f"{n}", step=n, **single)
        found = checkpoint(path, model=f"{n}", step=n)["activation"].sel(pooling=single["pooling"])
        found = found.dropna("layer", how="all").squeeze().values
        np.testing.assert_array_equal(found, values[where])


def test_labels_of_a_data_array_are_its_own(path, stimuli, values):
    array = xr.DataArray(
        np.stack([values, values + 1]),
        {"seed": [4, 2], "layer": [0, 7, 9], "step": 30, "pooling": "max"},
        ("seed", "layer", "sentence", "unit"),
    )
    mx.add_activations(path, array, model="brain", stimuli=stimuli)
    found = checkpoint(path, seed=2, step=30)["activation"].sel(layer=[0, 7, 9], pooling="max")
    np.testing.assert_array_equal(found, values + 1)
    mx.add_activations(path, array, model="brain", step=31, layer=[1, 2, 3])
    assert checkpoint(path, seed=4, step=31)["n_units"].sel(layer=3, pooling="max") == 5


def test_what_is_not_there_is_nan(path, stimuli, values):
    whole = np.full((3, 3, N, 7), np.nan, np.float32)
    whole[0, :, :, :5] = values
    whole[2, :2, :, :4] = values[:2, :, :4]
    array = xr.DataArray(da.from_array(whole), dims=("seed", "layer", "sentence", "unit"))
    found = mx.add_activations(path, array, model="brain", seed=[0, 1, 2], stimuli=stimuli)
    assert found["status"].tolist() == ["recorded", "not there", "recorded"]
    n_units = mx.open_store(path)["n_units"].squeeze()
    assert n_units.sel(seed=0).values.tolist() == [5, 5, 5]
    assert n_units.sel(seed=2).values.tolist() == [4, 4, 0]
    assert mx.missing_checkpoints(path, model="brain", seed=[0, 1, 2], step=-1) == [
        ("brain", 1, -1)
    ]


def test_provenance_says_where_it_came_from(path, stimuli, values):
    mx.add_activations(path, values, model="brain", stimuli=stimuli, source="fMRI, run 2")
    found = json.loads(mx.open_store(path)["provenance"].item())
    assert found["source"] == "fMRI, run 2"
    assert (found["pooling"], found["layer"]) == (["given"], [1, 2, 3])
    assert set(found["versions"]) == {"mlem_xr", "numpy"}


def test_nothing_is_replaced_unless_asked(path, stimuli, values):
    mx.add_activations(path, values, model="brain", stimuli=stimuli)
    mx.save_results(mx.multivariate_importance(mx.open_store(path)), progress=False)
    for other in (values + 1, values[:2], values[..., :3]):
        with pytest.raises(InputError, match="holds other activations of model=brain, seed=0"):
            mx.add_activations(path, other, model="brain")
    with pytest.raises(InputError, match="or of other poolings and layers"):
        mx.add_activations(path, values, model="brain", layer=[2, 3, 4])
    np.testing.assert_array_equal(checkpoint(path)["activation"].sel(pooling="given"), values)
    mx.add_activations(path, values + 1, model="brain", overwrite=True)
    np.testing.assert_array_equal(checkpoint(path)["activation"].sel(pooling="given"), values + 1)
    assert mx.list_results(path)["stale"].tolist() == [3]


def test_an_interrupted_call_is_continued(path, stimuli, values, monkeypatch):
    array = xr.DataArray(
        np.stack([values + seed for seed in range(4)]), dims=("seed", "layer", "sentence", "unit")
    )
    write_checkpoint = stores.write_checkpoint

    def interrupted(*arguments, **options):
        if options["seed"] == 2:
            raise KeyboardInterrupt
        write_checkpoint(*arguments, **options)

    monkeypatch.setattr(stores, "write_checkpoint", interrupted)
    options = {"model": "brain", "seed": range(4), "stimuli": stimuli}
    with pytest.raises(KeyboardInterrupt):
        mx.add_activations(path, array, **options)
    monkeypatch.undo()
    found = mx.add_activations(path, array, **options)
    assert found["status"].tolist() == ["skipped", "skipped", "recorded", "recorded"]
    given = mx.open_store(path)["activation"].squeeze().transpose("seed", ...)
    np.testing.assert_array_equal(given, array)


def test_what_is_added_and_what_is_recorded_share_a_store(path, stimuli, values):
    mx.create_store(stimuli, path, pooling=["mean"])
    write(path, layers(1, pooling=["mean"]), model="toy")
    mx.add_activations(path, values, model="brain", pooling="voxels")
    data = mx.open_store(path)
    assert data["pooling"].values.tolist() == ["mean", "voxels"]
    result = mx.save_results(mx.multivariate_importance(data), progress=False)
    there = result["r2"].notnull().all("layer").squeeze()
    assert there.sel(model="toy").values.tolist() == [True, False]
    assert there.sel(model="brain").values.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stimuli": None}, "stimuli: none given, and there is no store"),
        ({"array": np.ones((3, 7, 5))}, "array: 7 sentences; expected 40"),
        ({"array": np.ones(5)}, "array: it has 1 dimensions; expected 2 to 7"),
        ({"array": np.ones((3, N, 5), complex)}, "array: found dtype complex128"),
        ({"array": np.full((3, N, 5), np.inf)}, "NaN or infinite values in model=brain, .*layer=1"),
        ({"array": np.full((3, N, 5), 1e300)}, "NaN or infinite values"),
        ({"array": np.where(np.arange(5) == 1, np.nan, np.ones((N, 5)))}, "NaN or infinite values"),
        ({"model": ["a", "b"]}, "model: found 2 labels; expected 1, .*no such dimension"),
        ({"layer": [1, 2]}, "layer: found 2 labels; expected 3"),
        ({"layer": [1, 2, 2]}, "layer: some are named twice"),
        ({"layer": [1, 2, -3]}, "layer: found -3"),
        ({"seed": -1}, "seed: found -1"),
        ({"pooling": ""}, "pooling: found ''"),
        ({"model": ""}, "model: found ''"),
        ({"source": ""}, "source: found ''; expected a line"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_recorded(
    path, stimuli, values, change, message
):
    given = {"array": values, "model": "brain", "stimuli": stimuli} | change
    with pytest.raises(InputError, match=message):
        mx.add_activations(path, given.pop("array"), **given)
    assert not stores.is_recorded(path, model="brain", seed=0, step=-1)


def test_what_does_not_fit_its_sentences_makes_no_store(tmp_path, stimuli, values):
    path = tmp_path / "new.zarr"
    with pytest.raises(InputError, match="^array: 39 sentences; expected 40"):
        mx.add_activations(path, values[:, 1:], model="brain", stimuli=stimuli)
    assert not path.exists()


def test_dimensions_that_a_store_has_not_are_refused(path, stimuli, values):
    array = xr.DataArray(values, dims=("subject", "sentence", "unit"))
    with pytest.raises(InputError, match="^array: it has the dimensions 'subject', which a store"):
        mx.add_activations(path, array, model="brain", stimuli=stimuli)
    array = xr.DataArray(values, dims=("step", "sentence", "unit"))
    with pytest.raises(InputError, match="^step: none given; expected the 3 labels"):
        mx.add_activations(path, array, model="brain", stimuli=stimuli)
    assert not path.exists()


def test_sentences_in_another_order_are_refused(path, stimuli, values):
    array = xr.DataArray(values, dims=("layer", "sentence", "unit"))
    shuffled = array.assign_coords(sentence=range(N)).isel(sentence=slice(None, None, -1))
    with pytest.raises(InputError, match="^array: its sentences have the labels 39, 38, 37"):
        mx.add_activations(path, shuffled, model="brain", stimuli=stimuli)


def test_other_stimuli_are_refused(path, stimuli, values):
    mx.add_activations(path, values, model="brain", stimuli=stimuli)
    other = mx.read_stimuli("short_sentence").isel(sentence=slice(N))
    with pytest.raises(InputError, match="holds other stimuli"):
        mx.add_activations(path, values, model="other", stimuli=other)


@pytest.mark.parametrize("change", [lambda v: v * 1e-50, lambda v: v + 1e9], ids=["small", "far"])
def test_what_single_precision_does_not_hold_is_said(path, stimuli, values, change):
    values = values.astype(np.float64)
    with pytest.raises(
        InputError, match="^array: 5 of 5 units of model=anna.* layer=.*nothing was"
    ):
        mx.add_activations(path, change(values), stimuli=stimuli, model="anna")
    assert mx.missing_checkpoints(path, model=["anna"], seed=[0], step=[-1])
    values[..., 2] = change(values[..., 2])
    values[..., 4] = 1e9
    with pytest.warns(UserWarning, match="^array: 1 of 4 units of model=anna"):
        mx.add_activations(path, values, stimuli=stimuli, model="anna")
    assert mx.open_store(path)["activation"].notnull().all()


@pytest.mark.parametrize("given", [True, False])
def test_what_an_array_says_of_its_sentences_must_be_what_the_table_says(
    path, stimuli, values, given
):
    array = xr.DataArray(values, dims=("layer", "sentence", "unit"))
    names = {"text": stimuli["text"], "number": stimuli["number"]}
    if not given:
        mx.create_store(stimuli, path)
    table = {"stimuli": stimuli} if given else {}
    for name, column in names.items():
        turned = array.assign_coords({name: ("sentence", column.values[::-1])})
        with pytest.raises(InputError, match=f"^array: its sentences have .*drop_vars..{name}"):
            mx.add_activations(path, turned, model="anna", **table)
        with pytest.raises(InputError, match=f"^activations: its sentences .*drop_vars..{name}"):
            mx.from_arrays(turned, stimuli)
    same = array.assign_coords({name: ("sentence", v.values) for name, v in names.items()})
    same = same.assign_coords(mood=("sentence", np.arange(40)))
    assert mx.add_activations(path, same, model="anna", **table)["status"].tolist() == ["recorded"]
    assert mx.from_arrays(same, stimuli)["text"].equals(mx.from_arrays(array, stimuli)["text"])


@pytest.mark.parametrize("labels", [[4, 3, 2, 1, 0], [0, 1, 2, 2, 4], list("abcde")])
def test_units_have_the_numbers_that_a_store_gives_them(path, stimuli, values, labels):
    array = xr.DataArray(values, {"unit": labels}, ("layer", "sentence", "unit"))
    with pytest.raises(InputError, match="^array: its units have the labels .*drop_vars"):
        mx.add_activations(path, array, stimuli=stimuli, model="anna")
    mx.add_activations(path, array.drop_vars("unit"), stimuli=stimuli, model="anna")
