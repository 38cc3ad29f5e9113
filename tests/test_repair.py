"""A store is repaired: what is damaged is marked, and the calls that made it make it again."""

import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import mlem_xr as mx
from helpers import forty_sentences, layers, save, write
from mlem_xr.cli import app
from mlem_xr.store.activations import missing_checkpoints

LABELS = ["model", "seed", "step", "pooling", "layer"]


def lose(file):
    file.unlink()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


DAMAGE = pytest.mark.parametrize("damage", [lose, flip])


def fill(path):
    for seed in (0, 1):
        if missing_checkpoints(path, model=["toy"], seed=[seed], step=[-1]):
            write(path, layers(seed, pooling=["mean"]), seed=seed)


def analyze(path):
    return save(mx.mds(mx.open_store(path), init="classical"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "toy.zarr"
    mx.create_store(forty_sentences(), path, pooling=["mean"])
    fill(path)
    analyze(path)
    return path


@pytest.fixture
def store(made, tmp_path):
    """Return a copy, which may be damaged."""
    return shutil.copytree(made, tmp_path / made.name)


def repair(store):
    return mx.repair_store(store, progress=False).to_dict("records")


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def values(path):
    data, result = mx.open_store(path), mx.open_results(path, "mds", init="classical")
    return data["activation"].values, result["position"].values


def test_an_intact_store_is_left_as_it_is(store):
    before = contents(store)
    table = mx.repair_store(store, progress=False)
    assert list(table.columns) == ["part", "settings", *LABELS, "file", "done"]
    assert len(table) == 0
    assert contents(store) == before


@DAMAGE
def test_damaged_activations_are_recorded_again_by_the_same_call(store, damage):
    expected = values(store)
    damage(store / "activation/c/0/1/0/0/2/0/0")
    [row] = repair(store)
    assert row["done"] == "marked as not recorded"
    assert [row[dim] for dim in LABELS] == ["toy", 1, -1, "mean", 3]
    assert row["file"] == "activation/c/0/1/0/0/2/0/0"
    assert mx.open_store(store)["recorded"].values.tolist() == [[[True], [False]]]
    assert repair(store) == []
    fill(store)
    assert repair(store) == []
    for found, right in zip(values(store), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@DAMAGE
@pytest.mark.parametrize("name", ["position", "computed_from"])
def test_a_damaged_result_is_computed_again_by_the_same_call(store, name, damage, recwarn):
    expected = values(store)
    [folder] = (store / "results" / "mds").glob("*/computed_from")
    file = min((folder.parent / name / "c/0/1").rglob("0"), key=lambda f: f.is_dir())
    damage(file)
    rows = repair(store)
    if (name, damage) != ("computed_from", lose):
        assert [row["done"] for row in rows] == ["marked as not computed"]
        assert rows[0]["file"] == str(file.relative_to(store))
    assert mx.list_results(store)["current"].tolist() == [3]
    assert analyze(store) == {"computed": 3, "skipped": 3}
    assert repair(store) == []
    for found, right in zip(values(store), expected, strict=True):
        np.testing.assert_array_equal(found, right)
    assert not recwarn.list


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_layers_in_other_chunks_than_the_damaged_one_stay(store, monkeypatch, layer):
    # Layers that are larger have chunks of their own.
    monkeypatch.setattr("mlem_xr.store.saving._CHUNK_BYTES", 1)
    scan = mx.univariate_importance(mx.open_store(store))
    assert save(scan) == {"computed": 6}
    [folder] = (store / "results/univariate_importance").glob("*/r2")
    lose(folder / f"c/0/1/0/0/{layer}/0")
    [row] = repair(store)
    assert [row[dim] for dim in LABELS] == ["toy", 1, -1, "mean", layer + 1]
    assert mx.list_results(store)["current"].tolist() == [6, 5]
    assert save(scan) == {"computed": 1, "skipped": 5}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("text/c/0", "record again, with the same stimuli"),
        ("model/c/0", "a copy of the file"),
        ("n_units/c/0/0/0/0/0", "a copy of the file"),
    ],
)
def test_what_cannot_be_marked_is_left_and_said(store, name, remedy):
    flip(store / name)
    before = contents(store)
    rows = repair(store)
    assert rows
    assert all(row["done"].startswith("left: ") for row in rows)
    assert remedy in rows[0]["done"]
    assert contents(store) == before
    found = CliRunner().invoke(app(), ["info", str(store), "--repair"])
    assert found.exit_code == 1
    assert "left: " in found.output


def test_what_killed_processes_left_is_removed(store):
    id_ = "0123456789abcdef" * 2
    old = [store / f"zarr.{id_}.partial", store / "activation/c/0/0/0/0/0/0" / f"0.{id_}.partial"]
    new = store / "seed/c" / f"0.{id_}.partial"
    mine = [store / "thesis.partial", store.parent / f".{id_}.thesis"]
    unfinished = store.parent / f".{id_}.{store.name}"
    unfinished.mkdir()
    mine[1].mkdir()
    (unfinished / "zarr.json").touch()
    for file in (*old, new, *mine):
        file.touch()
    for file in (*old, mine[0]):
        os.utime(file, (0, 0))
    rows = repair(store)
    assert {row["part"] for row in rows} == {"unfinished"}
    assert {row["done"] for row in rows} == {"removed"}
    assert {row["file"] for row in rows} == {
        unfinished.name,
        *(str(file.relative_to(store)) for file in old),
    }
    assert not any(path.exists() for path in (*old, unfinished))
    # Another process may be writing the one, and the others are not ours.
    assert all(path.exists() for path in (new, *mine))


def test_one_option_alone(store):
    for other in ("--verify", "--detail"):
        found = CliRunner().invoke(app(), ["info", str(store), "--repair", other])
        assert found.exit_code == 2
        assert "expected one alone" in found.output
    assert CliRunner().invoke(app(), ["info", str(store), "--repair"]).exit_code == 0
