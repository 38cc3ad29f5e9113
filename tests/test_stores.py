import ctypes
import os
import resource
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import mlem_xr as mx
from forks import FORKS, start_fork
from helpers import forty_sentences, layers, save, until, write
from mlem_xr.schema import InputError
from mlem_xr.stimuli.table import from_dataframe
from mlem_xr.store import activations as stores
from mlem_xr.store import chunks, grid
from mlem_xr.store.locks import locked

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
"""Of Linux: takes a right from what a process starts, here the one to write everywhere."""


@pytest.fixture
def store(stimuli, tmp_path):
    return mx.create_store(stimuli, tmp_path / "toy.zarr")


def test_what_is_written_is_read(store, stimuli):
    for seed in (3, 1):
        write(store, layers(seed), seed=seed)
    data = mx.open_store(store)
    assert data["activation"].dims == (
        *("model", "seed", "step", "pooling", "layer"),
        *("sentence", "unit"),
    )
    assert data["activation"].dtype == np.float32
    assert data["seed"].values.tolist() == [1, 3]
    assert data["pooling"].values.tolist() == ["first-token", "mean", "last-token"]
    for seed in (1, 3):
        cell = data["activation"].sel(model="toy", seed=seed, step=-1)
        np.testing.assert_array_equal(cell.sel(pooling=["first-token", "mean"]), layers(seed))
        assert np.isnan(cell.sel(pooling="last-token")).all()
    assert data["activation"].chunksizes["layer"] == (1, 1, 1)
    assert data.attrs["features"] == stimuli.attrs["features"]
    assert data.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


def test_features_survive_a_round_trip(tmp_path):
    table = pd.DataFrame(
        {
            "sentence": list("abcd"),
            "flag": [True, False, True, True],
            "flag_or_not": np.array([True, None, False, True], dtype=object),
            "count": [1, 2, 3, 3],
            "number": [0.5, np.nan, 2.0, 2.0],
            "text": ["x", "", None, "ü"],
        }
    ).rename(columns={"text": "string"})
    stimuli = from_dataframe(table, name="types")
    path = mx.create_store(stimuli, tmp_path / "types.zarr")
    write(path, layers(n=4))
    data = mx.open_store(path)
    for name in stimuli.attrs["features"]:
        assert data[name].dtype == stimuli[name].dtype
        pd.testing.assert_series_equal(
            pd.Series(data[name].values), pd.Series(stimuli[name].values)
        )
    assert data["text"].values.tolist() == list("abcd")
    assert data["flag"].dtype == bool
    assert data["count"].dtype == np.int64


@pytest.mark.parametrize("name", ["layer", "results", "axis", "a/b", ".hidden", "__x", "text"])
def test_features_whose_names_a_store_cannot_hold_are_refused(name):
    table = pd.DataFrame({"sentence": list("abcd"), name: [1, 2, 1, 2]})
    with pytest.raises(InputError, match="rename it"):
        from_dataframe(table, name="names")


@pytest.mark.parametrize("name", ["two words", "ünïcode", "c", "r2", "importance"])
def test_features_may_have_any_other_name(name, tmp_path):
    table = pd.DataFrame({"sentence": list("abcdef"), name: [1, 2, 1, 2, 2, 1]})
    path = mx.create_store(from_dataframe(table, name="names"), tmp_path / "s.zarr")
    write(path, layers(n=6))
    data = mx.open_store(path)
    assert data[name].values.tolist() == [1, 2, 1, 2, 2, 1]
    mx.save_results(mx.mds(data), path, progress=False)
    mx.save_results(mx.multivariate_importance(data), path, progress=False)
    opened = mx.open_results(path, "multivariate_importance")
    assert opened["feature"].values.tolist() == [name]
    assert np.isfinite(opened["importance"].sel(pooling="mean")).all()


def test_networks_of_different_size_share_a_store(store):
    write(store, layers(0, n_layers=3, n_units=5), model="first")
    write(store, layers(1, n_layers=4, n_units=8), model="larger", step=1000)
    write(store, layers(2, n_layers=1, n_units=2), model="smaller", seed=7)
    data = mx.open_store(store)
    assert dict(data.sizes)["unit"] == 8
    poolings = ["first-token", "mean"]
    for model, seed, step, shape in (
        ("first", 0, -1, (3, 5)),
        ("larger", 0, 1000, (4, 8)),
        ("smaller", 7, -1, (1, 2)),
    ):
        cell = data["activation"].sel(model=model, seed=seed, step=step, pooling=poolings)
        expected = layers(["first", "larger", "smaller"].index(model), *shape)
        np.testing.assert_array_equal(cell[:, : shape[0], :, : shape[1]], expected)
        assert np.isnan(cell[:, shape[0] :]).all()
        assert np.isnan(cell[:, :, :, shape[1] :]).all()
    assert int(data["recorded"].sum()) == 3
    alone = mx.multivariate_importance(data.sel(model="smaller", seed=7, step=-1, layer=1))
    assert np.isfinite(alone["r2"].sel(pooling="mean"))


def test_a_recorded_checkpoint_is_kept_unless_asked(store):
    write(store, layers(0))
    before = mx.open_store(store)["fingerprint"].item()
    with pytest.raises(InputError, match="model=toy, seed=0, step=-1 is recorded already"):
        write(store, layers(1))
    np.testing.assert_array_equal(mx.open_store(store)["activation"][0, 0, 0, :2], layers(0))
    write(store, layers(1, n_layers=2), overwrite=True)
    data = mx.open_store(store)
    np.testing.assert_array_equal(data["activation"][0, 0, 0, :2, :2], layers(1, n_layers=2))
    assert np.isnan(data["activation"][0, 0, 0, :2, 2]).all()
    assert data["fingerprint"].item() != before


def test_half_a_checkpoint_is_neither_shown_nor_current(store, monkeypatch):
    """An overwrite that is cut short leaves no fingerprint, no numbers and no current results."""
    write(store, layers(0))
    mx.save_results(mx.multivariate_importance(mx.open_store(store)), store, progress=False)
    monkeypatch.setattr(stores, "_fingerprint", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(store, layers(1), overwrite=True)
    data = mx.open_store(store)
    assert not data["recorded"].any()
    assert data["fingerprint"].item() == ""
    assert data["provenance"].item() == ""
    assert np.isnan(data["activation"]).all()
    assert mx.list_results(store)["current"].tolist() == [0]
    assert np.isnan(mx.open_results(store, "multivariate_importance")["r2"]).all()


def test_a_second_writer_of_one_checkpoint_takes_over(store, monkeypatch):
    """Whoever claimed the checkpoint last may mark it as recorded; the other one is told."""
    clear = stores._clear

    def claimed_twice(*arguments):
        claim = clear(*arguments)
        clear(*arguments)
        return claim

    monkeypatch.setattr(stores, "_clear", claimed_twice)
    with pytest.raises(InputError, match="another process is writing model=toy, seed=0"):
        write(store, layers(0))
    assert not stores.is_recorded(store, model="toy", seed=0, step=-1)


def test_bad_activations_are_refused_and_nothing_is_written(store):
    bad = layers(0)
    bad[1, 2, 3, 4] = np.inf
    with pytest.raises(InputError, match="model=toy, seed=0, step=-1, pooling=mean, layer=3"):
        write(store, bad)
    with pytest.raises(InputError, match="7 sentences; the store holds 40"):
        write(store, layers(0, n=7))
    with pytest.raises(InputError, match="nothing is recorded"):
        mx.open_store(store)
    assert mx.missing_checkpoints(store, model=["toy"], seed=[0], step=[-1]) == [("toy", 0, -1)]


def test_a_store_of_other_stimuli_is_refused(store, stimuli):
    other = mx.read_stimuli("short_sentence")
    with pytest.raises(InputError, match="holds other stimuli \\('forty'\\)"):
        mx.create_store(other, store)
    assert mx.create_store(stimuli, store) == store


def test_what_is_not_a_store_is_refused(stimuli, tmp_path):
    with pytest.raises(InputError, match="there is no store at"):
        mx.open_store(tmp_path / "nothing.zarr")
    tmp_path.joinpath("folder").mkdir()
    tmp_path.joinpath("folder", "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and is not a store"):
        mx.create_store(stimuli, tmp_path / "folder")
    zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    with pytest.raises(InputError, match="has conventions None; expected 'mlem_xr-store-2'"):
        mx.open_store(tmp_path / "foreign.zarr")


def test_missing_checkpoints_are_listed_in_order(store):
    write(store, layers(), seed=1)
    missing = mx.missing_checkpoints(store, model=["toy", "new"], seed=[0, 1], step=[-1])
    assert missing == [("toy", 0, -1), ("new", 0, -1), ("new", 1, -1)]


def test_the_store_is_plain_zarr(store, stimuli):
    """Anyone can read it without this library."""
    write(store, layers(4))
    data = xr.open_zarr(store, consolidated=False)
    np.testing.assert_array_equal(data["activation"][0, 0, 0, :2], layers(4))
    assert data["recorded"].values.all()
    assert data["model"].values.tolist() == ["toy"]


def write_seed(store, seed):
    write(store, layers(seed), seed=seed, step=seed * 10)


def test_processes_write_different_checkpoints_at_once(store):
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(write_seed, [store] * 8, range(8)))
    data = mx.open_store(store)
    for seed in range(8):
        cell = data["activation"].sel(seed=seed, step=seed * 10, pooling=["first-token", "mean"])
        np.testing.assert_array_equal(cell[0], layers(seed))
    assert int(data["recorded"].sum()) == 8


def run_python(code, *arguments, limit=None, bound=False):
    """Start Python, with a limit on the size of files or without the right to write everywhere."""

    def prepare():
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if bound:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)

    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def write_many(store, said):
    for seed in range(1000):
        if not stores.is_recorded(store, model="toy", seed=seed, step=-1):
            write(store, layers(seed, n_layers=6, n_units=50 + seed), seed=seed)
            said.send(seed)


def test_a_killed_process_loses_only_the_checkpoint_in_hand(store):
    """Kill a process with SIGKILL at many moments of writing; readers never see half of it."""
    rng = np.random.default_rng(0)
    seen = set()
    for kills in range(5):
        heard, said = FORKS.Pipe(duplex=False)
        process = start_fork(write_many, store, said)
        # Else a process that fails would be waited for without an end.
        said.close()
        heard.recv()
        heard.recv()
        process.join(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        data = mx.open_store(store)
        recorded = data["seed"].values[data["recorded"].values[0, :, 0]]
        assert seen <= set(recorded)
        assert len(recorded) >= len(seen) + 2
        # What was whole before is looked at again at the end.
        for seed in recorded if kills == 4 else set(recorded) - seen:
            cell = data["activation"].sel(model="toy", seed=seed, step=-1)
            part = cell.sel(pooling=["first-token", "mean"])[..., : 50 + seed]
            np.testing.assert_array_equal(part, layers(seed, n_layers=6, n_units=50 + seed))
        seen |= set(recorded)
    write(store, layers(2000), seed=2000)
    assert stores.is_recorded(store, model="toy", seed=2000, step=-1)


def test_a_full_disk_leaves_the_checkpoint_unrecorded(store):
    """A limit on the size of a file stands for a disk that is full in the middle of a write."""
    write(store, layers(0, n_units=400))
    code = """
        import sys
        from helpers import forty_sentences, layers, save, until, write
        write(sys.argv[1], layers(1, n_units=400), seed=1)
    """
    process = run_python(code, store, limit=30_000)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "OSError" in errors.strip().splitlines()[-1]
    data = mx.open_store(store)
    assert data["recorded"].sel(seed=0).all()
    assert not data["recorded"].sel(seed=1).any()
    np.testing.assert_array_equal(data["activation"].sel(seed=0)[0, 0, :2], layers(0, n_units=400))
    write(store, layers(1, n_units=400), seed=1)
    assert mx.open_store(store)["recorded"].all()


def test_labels_that_a_killed_process_did_not_write_are_not_there(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "s.zarr")
    write(path, layers(0), seed=0)
    group = zarr.open_group(path, mode="r+")
    # What is left when a process is killed between the two steps of growing a dimension.
    for name in ("activation", "fingerprint", "provenance", "recorded"):
        shape = list(group[name].shape)
        group[name].resize((shape[0] + 1, shape[1] + 2, *shape[2:]))
    group["model"].resize((2,))
    group["seed"].resize((3,))
    data = mx.open_store(path)
    assert data["model"].values.tolist() == ["toy"]
    assert data["seed"].values.tolist() == [0]
    assert data["activation"].shape[:2] == (1, 1)
    write(path, layers(1), seed=7)
    data = mx.open_store(path)
    assert data["seed"].values.tolist() == [0, 7]
    assert data["recorded"].values.all()
    for i, seed in enumerate((0, 7)):
        found = data["activation"].sel(seed=seed, pooling=["first-token", "mean"])
        np.testing.assert_array_equal(found.squeeze(), layers(i))


def test_an_array_that_has_grown_since_it_was_opened_is_read_to_its_end(store, monkeypatch):
    """Another process has added a label between the opening of two arrays."""
    write(store, layers(0), seed=0)
    stale = grid.array_of(zarr.open_group(store, mode="r"), "recorded")
    write(store, layers(1), seed=1)
    opened = grid.open_arrays
    monkeypatch.setattr(grid, "open_arrays", lambda *a: opened(*a) | {"recorded": stale})
    names = ["model", "seed", "step", "recorded"]
    found = grid.read_grid(zarr.open_group(store, mode="r"), names=names)
    assert found["seed"].values.tolist() == [0, 1]
    assert found["recorded"].values.tolist() == [[[True], [True]]]


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("", "store: found ''; expected the path of a folder"),
        (None, "store: found None; expected the path of a folder"),
        (3, "store: found 3"),
        ("/", "store: '/' is the root of all folders"),
        (
            "ftp://bucket/bert.zarr",
            "store: found 'ftp://bucket/bert.zarr'; expected the path .* with s3://, gs://, az://",
        ),
        ("~nosuchuser/bert.zarr", "store: found '~nosuchuser/bert.zarr', which cannot be found"),
        ("a\0b", "store: .* which cannot be found"),
    ],
)
def test_paths_that_cannot_be_a_store_are_refused(stimuli, tmp_path, monkeypatch, store, message):
    monkeypatch.chdir(tmp_path)
    for function in (lambda: mx.create_store(stimuli, store), lambda: mx.open_store(store)):
        with pytest.raises(InputError, match=message):
            function()
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_one_store_have_one_lock(stimuli, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "toy.zarr")
    created = mx.create_store(stimuli, tmp_path / "link")
    assert created == tmp_path / "toy.zarr"
    write(tmp_path / "link", layers(0), seed=0)
    write(tmp_path / "toy.zarr", layers(1), seed=1)
    assert {path.name for path in tmp_path.glob("*.lock")} == {"toy.zarr.lock"}
    assert mx.open_store(tmp_path / "link").attrs["store"] == str(created)
    save = mx.save_results(
        mx.multivariate_importance(mx.open_store(tmp_path / "link")), progress=False
    )
    assert np.isfinite(save["r2"].sel(pooling="mean")).all()


def hold(store, there):
    with locked(store):
        there.send("held")
        there.recv()


def test_a_stopped_process_that_is_waited_for_is_named(store, monkeypatch, caplog):
    monkeypatch.setattr("mlem_xr.store.locks._PATIENCE", 0.1)
    here, there = FORKS.Pipe()
    process = start_fork(hold, store, there)
    there.close()
    assert here.recv() == "held"
    os.kill(process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write, store, layers(0))
        linux = Path("/proc/locks").exists()
        holder = f"process {process.pid}" if linux else "another process"
        try:
            until(lambda: f"waiting for {holder}, which holds {store}.lock" in caplog.text)
            assert not writing.done()
        finally:
            os.kill(process.pid, signal.SIGCONT)
            here.send("enough")
            process.join()
        writing.result()
    assert process.exitcode == 0
    assert mx.open_store(store)["recorded"].all()


@pytest.mark.parametrize("fixed", ["toy.zarr", "."])
def test_a_folder_that_cannot_be_written_to_is_one_error(stimuli, tmp_path, fixed):
    folder = tmp_path / "folder"
    store = mx.create_store(stimuli, folder / "toy.zarr", pooling=["mean"])
    write(store, layers(0, pooling=["mean"]))
    save(mx.multivariate_importance(mx.open_store(store)))
    (folder / "toy.zarr.lock").unlink()
    code = """
        import os, sys
        from pathlib import Path
        import mlem_xr as mx
        from helpers import forty_sentences, layers, save, until, write
        from mlem_xr.schema import InputError

        store, fixed = map(Path, sys.argv[1:])
        if os.access(fixed, os.W_OK):
            sys.exit(77)
        data = mx.open_store(store)
        # What is there needs no lock.
        found = mx.save_results(mx.multivariate_importance(data), progress=False)
        assert found["r2"].notnull().all()
        changes = [
            lambda: write(store, layers(1, pooling=["mean"]), seed=1),
            lambda: mx.save_results(mx.mds(data), progress=False),
            lambda: mx.create_store(forty_sentences(), fixed / "new.zarr"),
        ]
        for change in changes:
            try:
                change()
            except InputError as error:
                print(error, file=sys.stderr)
    """
    (folder / fixed).chmod(0o555)
    process = run_python(code, store, folder / fixed, bound=True)
    _, errors = process.communicate(timeout=300)
    (folder / fixed).chmod(0o755)
    if process.returncode == 77:
        pytest.skip("this user may write everywhere")
    assert process.returncode == 0, errors
    assert len(errors.splitlines()) == 3
    for line in errors.splitlines():
        assert f"{folder / fixed} cannot be written to" in line
        assert line.endswith("expected a folder that can be written to")


def test_a_store_that_is_there_needs_no_lock(store, stimuli, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(stores, "locked", refuse)
    assert mx.create_store(stimuli, store) == store
    with pytest.raises(InputError, match="holds other stimuli"):
        mx.create_store(mx.read_stimuli("short_sentence"), store)


def test_names_of_poolings_and_checkpoints_are_not_taken_letter_by_letter(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "toy.zarr", pooling="mean")
    write(path, layers(0, pooling=["mean"]), model="small")
    assert mx.open_store(path)["pooling"].values.tolist() == ["mean"]
    with pytest.raises(InputError, match="^pooling: unknown value 'max'"):
        mx.create_store(stimuli, tmp_path / "other.zarr", pooling="max")
    assert mx.missing_checkpoints(path, model="small", seed=[0, 1], step=-1) == [("small", 1, -1)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"model": ""}, "model: found ''; expected a name"),
        ({"seed": 2**63}, "seed: found .* below"),
        ({"seed": -1}, "seed: found -1"),
        ({"step": 1.5}, "step: found 1.5"),
    ],
)
def test_labels_that_cannot_be_stored_are_refused(store, labels, message):
    with pytest.raises(InputError, match=message):
        write(store, layers(0), **labels)


def test_a_wide_layer_is_cut_along_units_and_nothing_else_changes(tmp_path, monkeypatch):
    """Chunks of three units, read and computed one after another, in wider and in narrower ones."""
    values = {"wide": layers(0, n_units=8), "small": layers(1, n_units=2, n_layers=2)}

    def make(name):
        path = mx.create_store(forty_sentences(), tmp_path / name, pooling=["first-token", "mean"])
        for model, activation in values.items():
            write(path, activation, model=model)
        return path

    whole = make("whole.zarr")
    of_a_unit = 4 * values["wide"].sizes["sentence"]
    for module in (chunks, stores):
        monkeypatch.setattr(module, "LARGEST", 3 * of_a_unit)
    path = make("cut.zarr")
    opened = mx.open_store(path)
    assert opened["activation"].chunksizes["unit"] == (3, 3, 2)
    assert mx.open_store(whole)["activation"].chunksizes["unit"] == (8,)
    xr.testing.assert_equal(opened.load(), mx.open_store(whole).load())
    analyses = {"univariate_importance": {}, "multivariate_importance": {}, "mds": {"max_iter": 3}}
    for name, options in analyses.items():
        expected = getattr(mx, name)(mx.open_store(whole), **options).compute()
        assert save(getattr(mx, name)(mx.open_store(path), **options))["computed"] == 10
        found = mx.open_results(path, name, **options)
        xr.testing.assert_allclose(found.drop_vars("computed_from"), expected)
    assert len(mx.verify_store(path, progress=False)) == 0
    lost = path / "activation/c/0/0/0/1/0/0/1"
    lost.unlink()
    with pytest.raises(InputError, match=r"0/0/0/1/0/0/1 is missing; expected model=wide"):
        mx.open_store(path).load()
    assert mx.verify_store(path, progress=False)["file"].tolist() == [str(lost.relative_to(path))]
    assert mx.missing_checkpoints(path, model=list(values), seed=[0], step=[-1]) == [
        ("wide", 0, -1)
    ]


@pytest.mark.parametrize("lost", ["stimuli", "stimuli_hash", "features"])
def test_a_store_without_an_attribute_of_its_stimuli_is_damaged(store, lost):
    del zarr.open_group(store).attrs[lost]
    for call in (mx.open_store, mx.verify_store, mx.list_results):
        with pytest.raises(InputError, match=f"is damaged: it has no attributes '{lost}'$"):
            call(store)


def test_no_column_has_the_name_of_an_array_of_a_store(stimuli, tmp_path):
    """It would be overwritten."""
    path = mx.create_store(stimuli, tmp_path / "s.zarr")
    write(path, layers())
    mx.save_results(mx.multivariate_importance(mx.open_store(path)), progress=False)
    columns = {"sentence", *stimuli.attrs["features"], *stimuli.attrs.get("items", [])}
    names = {name for name, _ in zarr.open_group(path, mode="r").members()} - columns
    assert {"activation", "n_units", "recorded", "results", "text", "layer"} <= names
    for name in names:
        table = pd.DataFrame({"sentence": ["a b", "c d"], name: [0, 1], "x": [0, 1]})
        with pytest.raises(InputError, match=f"^stimuli: .* name of column '{name}'"):
            mx.read_stimuli(table)
