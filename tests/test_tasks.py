"""Tasks of a saved result: how they are cut, and what happens when several are written at once."""

import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import dask
import pytest
import xarray as xr

import mlem_xr as mx
from helpers import layers, save, write
from mlem_xr.analyses import univariate
from mlem_xr.kernels.explain import explain_units
from mlem_xr.schema import REPRESENTATION, InputError
from mlem_xr.store import saving
from mlem_xr.store.activations import write_checkpoint
from mlem_xr.store.tasks import cut_into_tasks, least_in_a_task


def n_layers(task):
    return task["layer"].stop - task["layer"].start


def positions_of(task):
    return list(product(*(range(task[dim].start, task[dim].stop) for dim in REPRESENTATION)))


@pytest.mark.parametrize("n_workers", [1, 2, 28])
def test_every_representation_is_in_one_task(n_workers):
    """Runs of different lengths, with a gap, over two poolings."""
    positions = [(0, seed, 0, p, i) for seed in range(9) for p in (0, 1) for i in range(seed + 1)]
    positions.remove((0, 7, 0, 1, 3))
    cut = cut_into_tasks(positions, n_workers=n_workers)
    assert [position for task in cut for position in positions_of(task)] == positions


def test_tasks_become_small_so_that_workers_end_together():
    positions = [(0, seed, 0, 0, layer) for seed in range(25) for layer in range(12)]
    sizes = [n_layers(task) for task in cut_into_tasks(positions, n_workers=2)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 12
    # While the last one is computed, the other worker has nothing to do.
    assert sizes[-1] <= 0.02 * len(positions) / 2
    assert len(sizes) < 1.3 * 25


def test_no_task_is_more_than_a_small_part_of_the_work():
    positions = [(0, 0, 0, 0, layer) for layer in range(12)]
    assert len(cut_into_tasks(positions, n_workers=1)) == 12
    positions = [(0, 0, 0, 0, layer) for layer in range(120)]
    assert max(map(n_layers, cut_into_tasks(positions, n_workers=1))) == 10


def test_small_representations_share_a_task_as_far_as_they_are_neighbors():
    positions = [(0, seed, 0, 0, layer) for seed in range(2) for layer in range(12)]
    for n_workers, least, size in ((2, 2, 2), (2, 100, 3), (1, 100, 6), (8, 100, 1)):
        cut = cut_into_tasks(positions, n_workers=n_workers, least=least)
        assert set(map(n_layers, cut)) == {size}
        assert [position for task in cut for position in positions_of(task)] == positions
    assert least_in_a_task(n_sentences=522, n_units=768) == 6
    assert least_in_a_task(n_sentences=7680, n_units=768) == 1
    assert least_in_a_task(n_sentences=1, n_units=1) > 10**6


def test_nothing_to_do():
    assert cut_into_tasks([], n_workers=2) == []


def test_layers_written_at_the_same_time_share_a_chunk(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "deep.zarr", pooling=["mean"])
    write(path, layers(0, n_layers=24).sel(pooling=["mean"]), seed=0)
    result = mx.univariate_importance(mx.open_store(path))
    with dask.config.set(scheduler="threads", num_workers=8):
        assert save(result, path) == {"computed": 24}
    opened = mx.open_results(path, "univariate_importance").drop_vars("computed_from")
    xr.testing.assert_equal(opened.compute(), result.compute())


def test_a_single_representation_keeps_several_workers_busy(stimuli, tmp_path, monkeypatch):
    path = mx.create_store(stimuli, tmp_path / "wide.zarr", pooling=["mean"])
    write(path, layers(0, n_layers=1, n_units=128).sel(pooling=["mean"]), seed=0)
    expected = mx.univariate_importance(mx.open_store(path)).compute()
    both = threading.Barrier(2, timeout=120)

    def wait_for_the_other(*arguments, **options):
        both.wait()
        return explain_units(*arguments, **options)

    monkeypatch.setattr(univariate, "_PAIRS_PER_TASK", 1)
    waiting = replace(univariate.UNIVARIATE, function=wait_for_the_other)
    result = waiting(mx.open_store(path), univariate.UnivariateOptions())
    with dask.config.set(scheduler="threads", num_workers=2):
        assert save(result, path) == {"computed": 1}
    opened = mx.open_results(path, "univariate_importance").drop_vars("computed_from")
    xr.testing.assert_equal(opened.compute(), expected)


@contextmanager
def meanwhile(action):
    """Do something once, after the first tasks were computed and before they are written."""
    with pytest.MonkeyPatch.context() as patch:

        def write_later(*arguments):
            patch.undo()
            action()
            saving._write(*arguments)

        patch.setattr(saving, "_write", write_later)
        yield


@pytest.mark.parametrize("again", [layers(9), layers(1)], ids=["others", "the same"])
def test_activations_recorded_again_meanwhile_are_noticed(stimuli, tmp_path, again):
    """Even the same ones: while they were away, the layers looked like missing ones."""
    store = mx.create_store(stimuli, tmp_path / "toy.zarr")
    write(store, layers(1), seed=1)
    result = mx.multivariate_importance(mx.open_store(store))

    def overwrite():
        checkpoint = {"model": "toy", "seed": 1, "step": -1}
        provenance = {"time": "now"}
        write_checkpoint(store, again, **checkpoint, provenance=provenance, overwrite=True)

    with meanwhile(overwrite), pytest.raises(InputError, match="recorded again while"):
        save(result.sel(layer=[1], pooling=["mean"]), store)
    assert mx.list_results(store)["current"].tolist() == [0]


@pytest.mark.parametrize("first", [[1], [1, 2, 3, 4, 5], [2, 3], [6]])
def test_another_process_saves_other_layers_of_the_same_chunk(
    stimuli, tmp_path, monkeypatch, first
):
    path = mx.create_store(stimuli, tmp_path / "deep.zarr", pooling=["mean"])
    write(path, layers(0, n_layers=6).sel(pooling=["mean"]), seed=0)
    result = mx.univariate_importance(mx.open_store(path))
    # Four layers of weights share a chunk, and all six of the smaller variables.
    monkeypatch.setattr(saving, "_CHUNK_BYTES", 4 * result["weight"][0, 0, 0, 0, 0].nbytes)
    rest = [layer for layer in range(1, 7) if layer not in first]
    with (
        dask.config.set(scheduler="sync", num_workers=1),
        meanwhile(lambda: save(result.sel(layer=rest), path)),
    ):
        assert save(result.sel(layer=first), path) == {"computed": len(first)}
    assert save(result, path) == {"skipped": 6}
    opened = mx.open_results(path, "univariate_importance").drop_vars("computed_from")
    xr.testing.assert_equal(opened.compute(), result.compute())
