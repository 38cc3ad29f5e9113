"""Damage is noticed: whatever is lost or changed in a store is named, and never read as a value."""

import itertools
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import mlem_xr as mx
from helpers import forty_sentences, layers, save, write
from mlem_xr.schema import InputError
from mlem_xr.store import grid, tasks
from mlem_xr.store.activations import OLDER, missing_checkpoints

CHECKPOINTS = [("toy", 0), ("toy", 1), ("small", 0)]


def fill(path, pooling=("first-token", "mean"), checkpoints=CHECKPOINTS):
    for i, (model, seed) in enumerate(checkpoints):
        shape = {"n_layers": 2, "n_units": 4} if model == "small" else {}
        if missing_checkpoints(path, model=[model], seed=[seed], step=[-1]):
            write(path, layers(i, pooling=pooling, **shape), model=model, seed=seed)


def make(folder, pooling, checkpoints=CHECKPOINTS):
    """Make checkpoints, of which the small one lacks a layer, and one result."""
    path = mx.create_store(forty_sentences(), folder / "toy.zarr", pooling=pooling)
    fill(path, pooling, checkpoints)
    save(mx.univariate_importance(mx.open_store(path)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), ["first-token", "mean"])


@pytest.fixture(scope="module")
def made_small(tmp_path_factory):
    """Fewer checkpoints and one pooling, so that fewer files are of one kind."""
    return make(tmp_path_factory.mktemp("made"), ["mean"], CHECKPOINTS[1:])


@pytest.fixture
def store(made, tmp_path):
    """Return a copy, which may be damaged."""
    return shutil.copytree(made, tmp_path / made.name)


def activations_of(path):
    return mx.open_store(path).load().assign_attrs(store="")


def result_of(path):
    return mx.open_results(path, "univariate_importance").load().assign_attrs(store="")


READERS = [activations_of, result_of]


def numbers(path, readers=READERS):
    """Read everything that a store holds, or some of it."""
    return [read(path) for read in readers]


def same(found, expected):
    return all(a.identical(b) for a, b in zip(found, expected, strict=True))


def results_of(store):
    return next((store / "results" / "univariate_importance").glob("*/computed_from")).parent


def alike(result):
    """Name the variables of a result but the first of those with the same dimensions."""
    group = zarr.open_group(result, mode="r")
    dims = {name: group[name].metadata.dimension_names for name in group.attrs["variables"]}
    first = {own: name for name, own in reversed(dims.items())}
    return set(dims) - set(first.values())


def lose(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-7])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def outcome(path, readers):
    """Read a store; return the values, or what was said instead."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = numbers(path, readers)
        except InputError as error:
            return None, str(error)
    return found, " ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("damage", [lose, empty, cut_short, flip])
def test_no_damage_to_any_file_is_silent(made_small, tmp_path, damage):
    """An error or a warning says where; or nothing changed."""
    store = shutil.copytree(made_small, tmp_path / made_small.name)
    expected = numbers(store)
    left_out = {"computed_from"} | alike(results_of(store))
    files = [
        file
        for file in store.rglob("*")
        if file.is_file() and file.suffix != ".lock" and not left_out & set(file.parts)
    ]
    n_said = 0
    for file in files:
        # Activations are read without the files of results.
        readers = [result_of] if "results" in file.parts else READERS
        kept = file.read_bytes()
        damage(file)
        found, said = outcome(store, readers)
        n_said += bool(said)
        if not said:
            right = expected[-len(readers) :]
            assert all(a.equals(b) for a, b in zip(found, right, strict=True)), file
        elif file.name != "zarr.json":
            assert "toy.zarr" in said, (file, said)
        file.write_bytes(kept)
    assert n_said > 0.8 * len(files) > 50
    assert same(numbers(store), expected)


@pytest.mark.parametrize("damage", [lose, empty, cut_short, flip])
def test_a_damaged_chunk_is_named_with_its_representation(store, damage):
    data = mx.open_store(store)
    damage(store / "activation" / "c" / "0" / "1" / "0" / "1" / "2" / "0" / "0")
    names = r"toy\.zarr/activation.*model=toy, seed=1, step=-1, pooling=mean, layer=3.*record"
    with pytest.raises(InputError, match=names):
        mx.open_store(store)["activation"].compute()
    with pytest.raises(InputError, match=names):
        data["activation"].sel(seed=1, layer=3, unit=[0, 2]).compute()
    with pytest.raises(InputError, match=names):
        mx.multivariate_importance(data)["r2"].compute()
    # The others are there.
    np.testing.assert_array_equal(
        data["activation"].sel(model="toy", seed=1, step=-1, layer=[1, 2]), layers(1)[:, :2]
    )


def test_nothing_is_saved_of_damaged_activations_and_recording_mends_them(store):
    expected = numbers(store)
    (store / "activation" / "c" / "0" / "1" / "0" / "1" / "2" / "0" / "0").unlink()
    result = mx.multivariate_importance(mx.open_store(store))
    with pytest.raises(InputError, match="layer=3"):
        save(result)
    assert missing_checkpoints(store, model=["toy"], seed=[0, 1], step=[-1]) == [("toy", 1, -1)]
    fill(store)
    found = numbers(store)
    np.testing.assert_array_equal(found[0]["activation"], expected[0]["activation"])
    xr.testing.assert_identical(found[1], expected[1])
    assert save(mx.multivariate_importance(mx.open_store(store)))["not recorded"] == 6


@pytest.mark.parametrize("name", ["text", "tense", "sentence"])
@pytest.mark.parametrize("damage", [lose, flip])
def test_lost_sentences_and_features_are_an_error_and_recording_mends_them(
    store, stimuli, name, damage
):
    expected = numbers(store)
    damage(store / (stimuli.attrs["features"][0] if name == "tense" else name) / "c" / "0")
    with pytest.raises(InputError, match="^store: .*is damaged|are damaged"):
        mx.open_store(store)
    mx.create_store(stimuli, store)
    assert same(numbers(store), expected)


def test_a_feature_changed_by_hand_is_an_error(store, stimuli):
    name = stimuli.attrs["features"][0]
    codes = zarr.open_array(store / name, mode="r+")
    codes[0] = 1 - codes[0]
    with pytest.raises(InputError, match="sentences and features in .* are damaged"):
        mx.open_store(store)


@pytest.mark.parametrize("name", ["recorded", "n_units", "fingerprint", "provenance"])
def test_lost_marks_are_a_warning_that_names_the_checkpoints(store, name):
    """Marks of one model share a chunk."""
    expected = numbers(store)
    file = next(file for file in (store / name / "c" / "1").rglob("*") if file.is_file())
    file.unlink()
    with pytest.warns(UserWarning, match="lost marks of model=small, seed=0, step=-1, which"):
        data = mx.open_store(store)
    assert data["recorded"].sel(model="small").sum() == 0
    assert np.isnan(data["activation"].sel(model="small")).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(store)
        np.testing.assert_array_equal(numbers(store)[0]["activation"], expected[0]["activation"])


@pytest.mark.parametrize("dim", ["model", "seed", "layer", "pooling", "unit"])
def test_lost_labels_are_an_error_also_for_whoever_adds_to_the_store(store, dim):
    (store / dim / "c" / "0").unlink()
    for act in (mx.open_store, lambda path: write(path, layers(5), model="new")):
        with pytest.raises(InputError, match=f"toy.zarr/{dim} is damaged: 0 labels; expected"):
            act(store)


def test_labels_of_a_result_that_were_lost_are_an_error(store):
    folder = results_of(store)
    result = mx.univariate_importance(mx.open_store(store))
    for dim in ("feature", "model", "layer", "unit"):
        kept = (folder / dim / "c" / "0").read_bytes()
        (folder / dim / "c" / "0").unlink()
        with pytest.raises(InputError, match=f"/{dim} is damaged: 0 labels"):
            mx.open_results(store, "univariate_importance")
        (folder / dim / "c" / "0").write_bytes(kept)
    (folder / "model" / "c" / "0").unlink()
    with pytest.raises(InputError, match="/model is damaged"):
        save(result, refresh=["importance"])


@pytest.mark.parametrize("damage", [lose, empty, cut_short, flip])
def test_a_damaged_chunk_of_a_result_is_named_and_saving_again_mends_it(store, damage, monkeypatch):
    # Layers are written one by one, so that the chunk is read.
    monkeypatch.setattr(tasks, "_WORTHWHILE", 1)
    expected = numbers(store)[1]
    opened = mx.open_results(store, "univariate_importance")
    file = sorted((results_of(store) / "importance" / "c" / "0" / "1").rglob("0"))[-1]
    assert file.is_file()
    damage(file)
    names = r"importance.*model=toy, seed=1, step=-1, .*layer=1.*refresh='importance'"
    for result in (opened, mx.open_results(store, "univariate_importance")):
        with pytest.raises(InputError, match=names):
            result["importance"].sel(model="toy", seed=1).compute()
        assert np.isfinite(result["importance"].sel(model="toy", seed=0)).all()
    with pytest.warns(UserWarning, match="damaged chunks in .*univariate.* were removed"):
        save(mx.univariate_importance(mx.open_store(store)), refresh=["importance"])
    xr.testing.assert_identical(numbers(store)[1], expected)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ('"random_state": 0', '"random_state": 1'),
        ('"analysis": "univ', '"analysis": "uniw'),
        ('"analysis"', '"analasis"'),
        ('"target"', '"tArget"'),
        ('"version": "', '"version": "1'),
        ('"settings"', '"sattings"'),
    ],
)
def test_settings_of_a_result_that_have_changed_are_damage(store, word, other):
    """They would open as a result of other settings than its own."""
    [file] = store.glob("results/*/*/zarr.json")
    text = file.read_text()
    assert text.count(word) >= 1
    file.write_text(text.replace(word, other, 1))
    named = f"^store: {file} is damaged: it names other settings"
    for read in (mx.list_results, lambda s: mx.open_results(s, "univariate_importance")):
        with pytest.raises(InputError, match=named):
            read(store)
    damage = mx.verify_store(store, progress=False)
    assert len(damage) == 1 and "it names other settings" in damage["problem"][0]
    shutil.rmtree(file.parent)
    assert save(mx.univariate_importance(mx.open_store(store)))["computed"] > 0
    assert mx.verify_store(store, progress=False).empty


def test_a_damaged_chunk_that_is_written_whole_is_not_read(store):
    expected = numbers(store)[1]
    flip(sorted((results_of(store) / "importance" / "c" / "0" / "1").rglob("0"))[-1])
    save(mx.univariate_importance(mx.open_store(store)), refresh=["importance"])
    xr.testing.assert_identical(numbers(store)[1], expected)


def test_a_checkpoint_that_another_process_is_writing_is_looked_at_again(store, monkeypatch):
    """Its marks are written one after another."""
    read, times = grid.read_grid, itertools.count()

    def read_between(*arguments, **options):
        found = read(*arguments, **options)
        if "fingerprint" in found and next(times) == 0:
            found["fingerprint"][0, 0, 0] = ""
        return found

    monkeypatch.setattr("mlem_xr.store.activations.read_grid", read_between)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mx.open_store(store)
    assert next(times) > 1
    assert found["recorded"].sel(model="toy").all()


def test_marks_of_a_result_that_were_lost_are_made_again(store):
    expected = numbers(store)[1]
    result = mx.univariate_importance(mx.open_store(store))
    shutil.rmtree(results_of(store) / "computed_from" / "c" / "0" / "1")
    assert mx.list_results(store)["current"].tolist() == [10]
    assert np.isnan(numbers(store)[1]["r2"].sel(model="toy", seed=1)).all()
    assert save(result)["computed"] == 6
    xr.testing.assert_identical(numbers(store)[1], expected)


def test_a_store_that_was_moved_says_so(store):
    data = mx.open_store(store)
    result = mx.open_results(store, "univariate_importance")
    moved = store.rename(store.with_name("moved.zarr"))
    for lazy in (data["activation"], mx.multivariate_importance(data), result):
        with pytest.raises(InputError, match="toy.zarr.* is not there any more|is missing"):
            lazy.compute()
    np.testing.assert_array_equal(
        mx.open_store(moved)["activation"], numbers(moved)[0]["activation"]
    )


def test_what_was_opened_before_a_checkpoint_was_recorded_again_is_not_read(store):
    data = mx.open_store(store)
    lazy = mx.multivariate_importance(data)
    result = mx.open_results(store, "univariate_importance")
    before = lazy.sel(seed=1).compute()
    write(store, layers(7), model="toy", seed=1, overwrite=True)
    written = "model=toy, seed=1, step=-1.* has been written again since the store was opened"
    for again in (data["activation"], lazy["r2"]):
        with pytest.raises(InputError, match=written):
            again.compute()
        again.sel(seed=0).compute()
    np.testing.assert_array_equal(result.compute()["r2"].sel(seed=1), result["r2"].sel(seed=1))
    save(mx.univariate_importance(mx.open_store(store)))
    with pytest.raises(InputError, match=written):
        result.compute()
    assert np.isfinite(before["r2"].sel(model="toy")).all()


def test_the_same_activations_recorded_again_are_the_same(store):
    data = mx.open_store(store)
    expected = data["activation"].compute()
    write(store, layers(1), model="toy", seed=1, overwrite=True)
    xr.testing.assert_identical(data["activation"].compute(), expected)


def test_only_what_a_network_has_is_read_counted_and_listed(store, capfd):
    data = mx.open_store(store)
    assert data["n_units"].dtype == np.int32
    assert data["n_units"].sel(model="toy", seed=1, step=-1, pooling="mean").values.tolist() == [
        5,
        5,
        5,
    ]
    assert data["n_units"].sel(model="small", seed=0, step=-1, pooling="mean").values.tolist() == [
        4,
        4,
        0,
    ]
    assert data["n_units"].sel(model="small", seed=1).sum() == 0
    shutil.rmtree(store / "results")
    mx.save_results(mx.univariate_importance(data))
    # 2 networks of 2 poolings x 3 layers x 5 units, and one of 2 x 2 x 4.
    assert "76/76" in capfd.readouterr().err
    detail = mx.list_results(store, detail=True)
    assert set(detail["status"]) == {"current", "not recorded"}
    small = detail[(detail["model"] == "small") & (detail["seed"] == 0)]
    assert small["layer"].tolist() == [1, 2, 1, 2]


def test_a_part_that_is_saved_into_a_lost_chunk_leaves_no_other_layer_behind(store):
    """Layers share chunks: those that were lost with it are saved again, not read as NaN."""
    expected = numbers(store)[1]
    shutil.rmtree(results_of(store) / "r2" / "c" / "0" / "1")
    result = mx.univariate_importance(mx.open_store(store))
    with pytest.warns(UserWarning, match="damaged chunks"):
        save(result.sel(seed=1, layer=2), refresh=["importance"])
    found = numbers(store)[1]
    layers_there = found["computed_from"].sel(model="toy", seed=1, step=-1) != ""
    assert layers_there.values.tolist() == [[False, True, False]] * 2
    assert save(result)["computed"] == 4
    xr.testing.assert_identical(numbers(store)[1], expected)


@pytest.fixture
def older(tmp_path):
    """Unpack a store that was written by mlem_xr 0.2.0: the three checkpoints and the result."""
    shutil.unpack_archive(Path(__file__).parent / "data" / "store-1.zip", tmp_path)
    return tmp_path / "store-1.zarr"


def test_results_of_an_older_version_are_kept_beside_new_ones(older):
    """It had no `variance`: what is saved now has a place of its own, and is what is opened."""
    with pytest.warns(UserWarning, match="saved by mlem_xr 0.2.0; this is"):
        assert "variance" not in mx.open_results(older, "univariate_importance")
    assert save(mx.univariate_importance(mx.open_store(older)))["computed"] == 18
    assert np.isfinite(mx.open_results(older, "univariate_importance")["variance"]).any()
    assert mx.list_results(older)["version"].tolist().count("0.2.0") == 1
    save(mx.univariate_importance(mx.open_store(older)), refresh=["importance"])


@pytest.mark.filterwarnings("ignore:results. saved by mlem_xr 0.2.0")
def test_a_store_of_the_older_layout_is_read_and_added_to(older, stimuli):
    """Nothing says which layers its networks have until the units are counted."""
    assert zarr.open_group(older).attrs["conventions"] == OLDER
    result = mx.open_results(older, "univariate_importance")
    # Later versions have more variables, and add up in another order.
    expected = mx.univariate_importance(mx.open_store(older))[list(result.data_vars)]
    xr.testing.assert_allclose(result.drop_vars("computed_from"), expected, rtol=1e-9)
    for i, (model, seed) in enumerate(CHECKPOINTS[:2]):
        part = mx.open_store(older)["activation"].sel(model=model, seed=seed, step=-1)
        np.testing.assert_array_equal(part, layers(i))
    assert missing_checkpoints(older, model=["small"], seed=[0, 1], step=[-1]) == [("small", 1, -1)]
    mx.create_store(stimuli, older)
    write(older, layers(8), model="new")
    data = mx.open_store(older)
    counts = data["n_units"].sel(step=-1, pooling="mean")
    assert counts.sel(model="toy", seed=1).values.tolist() == [5, 5, 5]
    assert counts.sel(model="small", seed=0).values.tolist() == [4, 4, 0]
    assert counts.sel(model="new", seed=0).values.tolist() == [5, 5, 5]
    np.testing.assert_array_equal(data["activation"].sel(model="new", seed=0, step=-1), layers(8))


@pytest.fixture
def lock_away(monkeypatch):
    """Return a function after which files cannot be read that have a word in their path."""

    def lock_away(word):
        get = LocalStore.get

        async def refused(self, key, *others, **options):
            if word in f"{self.root}/{key}":
                raise PermissionError(13, "Permission denied", key)
            return await get(self, key, *others, **options)

        monkeypatch.setattr(LocalStore, "get", refused)

    return lock_away


def files(path):
    return {
        file: file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "lock" not in file.name
    }


@pytest.mark.parametrize("word", ["activation/c", "text/c", "number/c", "layer/zarr.json"])
def test_what_cannot_be_read_is_not_called_damaged(store, lock_away, word):
    lock_away(word)
    with pytest.raises(InputError, match="cannot be read .PermissionError") as caught:
        mx.open_store(store)["activation"].load()
    assert "damaged" not in str(caught.value)


def test_sentences_that_cannot_be_read_are_not_written_again(store, stimuli, lock_away):
    before = files(store)
    lock_away("text/c")
    with pytest.raises(InputError, match="cannot be read"):
        mx.create_store(stimuli, store)
    assert files(store) == before


def test_results_that_cannot_be_read_are_not_cleared(store, lock_away, monkeypatch):
    before, expected = files(results_of(store)), numbers(store)
    part = mx.univariate_importance(mx.open_store(store)).sel(layer=[1])
    lock_away("importance/c/")
    with pytest.raises(OSError, match="Permission denied"):
        save(part, refresh="importance")
    assert files(results_of(store)) == before
    monkeypatch.undo()
    assert same(numbers(store), expected)
