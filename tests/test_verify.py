"""A store is verified: each chunk that is missing or damaged is named once, and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import mlem_xr as mx
from helpers import forty_sentences, layers, save, write
from mlem_xr.cli import app
from mlem_xr.schema import InputError

pytestmark = pytest.mark.usefixtures("forked_workers")

LABELS = ["model", "seed", "step", "pooling", "layer"]


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


DAMAGE = [lose, empty, cut_short, flip]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three checkpoints, of which the small one lacks a layer, and results of three kinds."""
    path = mx.create_store(forty_sentences(), tmp_path_factory.mktemp("made") / "toy.zarr")
    write(path, layers(0))
    write(path, layers(1), seed=1)
    write(path, layers(2, n_layers=2, n_units=4), model="small")
    opened = mx.open_store(path)
    # Results of one pooling are enough, and quicker to copy.
    save(mx.univariate_importance(opened.sel(pooling=["mean"])))
    save(mx.multivariate_importance(opened.sel(pooling=["mean"]), distance="manhattan"))
    some = opened.sel(layer=[1, 2], pooling=["first-token"])
    save(mx.univariate_importance(mx.concatenate_layers(some)))
    return path


@pytest.fixture
def store(made, tmp_path):
    """Return a copy, which may be damaged."""
    return shutil.copytree(made, tmp_path / made.name)


def verify(store):
    return mx.verify_store(store, progress=False)


def chunks(folder):
    return sorted(file for file in (folder / "c").rglob("*") if file.is_file())


def result(store, analysis, layer=None):
    """Return the folder of a saved result, or of that of all layers together."""
    saved = [marks.parent for marks in (store / "results" / analysis).glob("*/computed_from")]
    return next(folder for folder in saved if (folder / "unit_layer").exists() == bool(layer))


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_an_intact_store_has_no_damage_and_is_left_as_it_is(store, capfd):
    before = contents(store)
    table = mx.verify_store(store)
    assert len(table) == 0
    assert list(table.columns) == ["part", "settings", *LABELS, "file", "problem"]
    assert "everything is as it was written\n" in capfd.readouterr().err
    assert contents(store) == before
    verify(store)
    assert capfd.readouterr().err == ""


def test_everything_that_is_recorded_or_saved_is_read(store, monkeypatch):
    """All chunks of activations and of variables, each once."""
    from mlem_xr.store import chunks as module

    read = []
    problem_of = module.problem_of

    def noted(array, chunk):
        read.append(module.address_of(array) / "/".join(["c", *map(str, chunk)]))
        return problem_of(array, chunk)

    monkeypatch.setattr(module, "problem_of", noted)
    verify(store)
    expected = chunks(store / "activation")
    for marks in store.glob("results/*/*/computed_from"):
        for name in zarr.open_group(marks.parent).attrs["variables"]:
            expected += chunks(marks.parent / name)
    assert sorted(read) == sorted(expected)
    assert len(expected) > 50


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_chunk_of_activations_is_named_once_and_alone(store, damage):
    name = "activation/c/0/1/0/1/2/0/0"
    damage(store / name)
    [row] = verify(store).to_dict("records")
    assert row["file"] == name
    assert row["part"] == "activations"
    assert [row[dim] for dim in LABELS] == ["toy", 1, -1, "mean", 3]
    expected = "is missing" if damage is lose else "is damaged|cannot be read"
    assert row["problem"].split(" (")[0] in expected.split("|")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["text", "number", "frequency"])
def test_a_chunk_of_stimuli_is_named_once_and_alone(store, name, damage):
    damage(store / name / "c" / "0")
    [row] = verify(store).to_dict("records")
    assert (row["part"], row["file"]) == ("stimuli", f"{name}/c/0")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("dim", ["model", "seed", "layer", "pooling", "unit", "sentence"])
def test_labels_are_named_once_and_what_was_not_read_is_said(store, dim, damage):
    damage(store / dim / "c" / "0")
    (store / "activation/c/0/1/0/1/2/0/0").unlink()
    [row] = verify(store).to_dict("records")
    assert row["part"] == "labels and marks"
    assert row["file"] == (dim if damage is lose else f"{dim}/c/0")
    assert row["problem"].endswith("; the activations and results were not read")


@pytest.mark.parametrize("name", ["recorded", "n_units", "fingerprint", "provenance"])
def test_lost_marks_are_named_with_their_checkpoint(store, name):
    [file] = chunks(store / name)[1:]
    file.unlink()
    [row] = verify(store).to_dict("records")
    assert row["file"] == str(file.relative_to(store))
    assert [row[dim] for dim in LABELS] == ["small", 0, -1, "", ""]
    assert "counts as not recorded" in row["problem"]


@pytest.mark.parametrize("name", ["recorded", "n_units", "fingerprint", "provenance"])
def test_marks_that_have_changed_are_named(store, name):
    file = chunks(store / name)[1]
    flip(file)
    [row] = verify(store).to_dict("records")
    assert row["file"] == str(file.relative_to(store))
    assert "is damaged" in row["problem"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_chunk_of_a_result_is_named_once_and_alone(store, damage):
    file = chunks(result(store, "multivariate_importance") / "importance")[-1]
    damage(file)
    [row] = verify(store).to_dict("records")
    assert row["file"] == str(file.relative_to(store))
    assert (row["part"], row["settings"]) == ("multivariate_importance", "distance manhattan")
    assert [row[dim] for dim in LABELS] == ["small", 0, -1, "mean", "1, 2"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_chunk_of_a_result_of_all_layers_is_named_once_and_alone(store, damage):
    folder = result(store, "univariate_importance", "net")
    file = chunks(folder / "r2")[0]
    damage(file)
    [row] = verify(store).to_dict("records")
    assert row["file"] == str(file.relative_to(store))
    assert [row[dim] for dim in LABELS] == ["toy", 0, -1, "first-token", "net"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["feature", "layer", "unit", "unit_layer", "unit_number"])
def test_labels_of_a_result_are_named_once_and_the_rest_is_read(store, name, damage):
    folder = result(store, "univariate_importance", "net")
    damage(folder / name / "c" / "0")
    (store / "activation/c/0/1/0/1/2/0/0").unlink()
    other, row = verify(store).to_dict("records")[::-1]
    if row["part"] == "activations":
        other, row = row, other
    assert other["part"] == "activations"
    assert row["part"] == "univariate_importance"
    assert row["file"].startswith(str(folder.relative_to(store)))
    assert name in row["file"] + row["problem"]
    assert row["problem"].endswith("; the result was not read")


@pytest.mark.parametrize("name", ["activation", "n_units", "text", "layer"])
def test_a_lost_description_of_an_array_is_named(store, name):
    (store / name / "zarr.json").unlink()
    problems = verify(store)
    assert len(problems) == 1
    assert name in problems["file"][0] + problems["problem"][0]


def test_all_damage_is_named_at_once(store):
    """Results are verified although a feature is damaged."""
    damaged = [
        store / "number" / "c" / "0",
        *chunks(store / "activation")[::7],
        *chunks(result(store, "multivariate_importance") / "r2")[:2],
        *chunks(result(store, "univariate_importance", "net") / "importance")[:1],
    ]
    for i, file in enumerate(damaged):
        DAMAGE[i % 4](file)
    assert sorted(verify(store)["file"]) == sorted(str(f.relative_to(store)) for f in damaged)


def test_workers_of_a_client_find_the_same(store):
    for file in chunks(store / "activation")[::5]:
        flip(file)
    expected = verify(store)
    assert len(expected) > 3
    with mx.local_client(1):
        assert verify(store).equals(expected)


def test_what_was_not_recorded_or_is_stale_is_no_damage(store):
    """A checkpoint that is recorded again has results that are never read."""
    write(store, layers(7), seed=1, overwrite=True)
    for name in ("importance", "r2"):
        shutil.rmtree(result(store, "multivariate_importance") / name / "c" / "0" / "1")
    assert verify(store).empty
    (store / "activation" / "c" / "9").mkdir()
    assert verify(store).empty


def test_a_store_that_nothing_was_recorded_into(tmp_path):
    path = mx.create_store(forty_sentences(), tmp_path / "new.zarr")
    assert verify(path).empty
    flip(path / "text" / "c" / "0")
    assert verify(path)["file"].tolist() == ["text/c/0"]


def test_a_store_of_the_older_layout(tmp_path):
    """It has no checksums: what is missing may have been empty."""
    shutil.unpack_archive(Path(__file__).parent / "data" / "store-1.zip", tmp_path)
    older = tmp_path / "store-1.zarr"
    assert verify(older).empty
    file = chunks(older / "activation")[0]
    empty(file)
    assert verify(older)["file"].tolist() == [str(file.relative_to(older))]
    file.unlink()
    assert verify(older).empty
    (older / "sentence" / "c" / "0").unlink()
    assert verify(older)["file"].tolist() == ["sentence"]


def test_a_checkpoint_that_is_written_again_meanwhile_is_said(store, monkeypatch):
    from mlem_xr.store import verifying

    read_all = verifying._read_all

    def late(*args):
        write(store, layers(8, n_layers=2), seed=1, overwrite=True)
        return read_all(*args)

    monkeypatch.setattr(verifying, "_read_all", late)
    table = verify(store)
    # Its third layer is there no more.
    assert set(table["layer"]) == {3}
    assert table["problem"].str.contains("seed=1.*has been written again since").all()


def test_what_is_no_store_is_an_error(tmp_path):
    with pytest.raises(InputError, match="^store: there is no store at"):
        mx.verify_store(tmp_path / "nowhere.zarr")


def run(*words):
    return CliRunner().invoke(app(), list(map(str, words)))


def test_the_command_says_that_all_is_well(store):
    found = run("info", store, "--verify")
    assert found.exit_code == 0
    assert found.stdout == ""
    assert found.stderr.splitlines()[-1] == "everything is as it was written"


def test_the_command_lists_damage_with_exit_code_1(store):
    flip(store / "activation/c/0/1/0/1/2/0/0")
    (store / "number/c/0").unlink()
    found = run("info", store, "--verify")
    assert found.exit_code == 1
    head, *lines = found.stdout.splitlines()
    assert head.split() == ["part", "settings", *LABELS, "file", "problem"]
    assert [line.split()[0] for line in lines] == ["stimuli", "activations"]
    assert np.char.find(lines[1], "toy") > 0
    assert "everything" not in found.output
    assert run("info", store, "--verify", "--detail").exit_code == 2
