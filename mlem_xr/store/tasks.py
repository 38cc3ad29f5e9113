"""How the work of saving is cut into tasks: layers of one checkpoint and pooling."""

import math

import numpy as np

from mlem_xr.schema import REPRESENTATION

Task = dict[str, slice]
"""Positions along the dimensions of a representation: one of each, and several layers.

Slices, because Dask is slow to select by lists.
"""

_SHARE_OF_THE_REST, _SHARE_OF_THE_WHOLE = 2, 12
"""A task is at most this fraction of a worker's share of what is left, and of all there is."""


_TASKS_PER_WORKER = 4
"""So many at least, so that no worker waits long for the last one: the work may be slow."""

_WORTHWHILE = 2**29
"""Pairs times units of a task that is worth its own cost, some 50 ms: a core does about ten times
as many per second."""


def least_in_a_task(n_sentences: int, n_units: int) -> int:
    """Return how many representations of this size a task should have, if they are small."""
    return math.ceil(_WORTHWHILE / max(1, n_sentences**2 // 2 * n_units))


def cut_into_tasks(
    positions: list[tuple[int, ...]], *, n_workers: int, least: int = 1
) -> list[Task]:
    """Cut runs of representations that differ in the layer alone, smaller towards the end.

    Every task costs some time of its own, so they are large; the last ones are small, so that all
    workers end at about the same time (guided self-scheduling, Polychronopoulos & Kuck 1987,
    https://doi.org/10.1109/TC.1987.5009495). None is more than a small fraction of the whole, which
    is what an interruption may lose and what a progress bar waits for; but `least` are together, if
    a run has as many, and there are still several tasks for each worker.
    """
    runs: list[list[tuple[int, ...]]] = []
    for position in positions:
        if runs and position == (*runs[-1][-1][:4], runs[-1][-1][4] + 1):
            runs[-1].append(position)
        else:
            runs.append([position])
    cuts, left = [], len(positions)
    least = max(1, min(least, left // (_TASKS_PER_WORKER * n_workers)))
    for run in runs:
        most = min(left / _SHARE_OF_THE_REST, len(positions) / _SHARE_OF_THE_WHOLE) / n_workers
        n_tasks = min(math.ceil(len(run) / max(1, most)), max(1, len(run) // least))
        cuts += np.array_split(run, n_tasks)
        left -= len(run)
    return [
        {
            dim: slice(int(low), int(high) + 1)
            for dim, low, high in zip(REPRESENTATION, cut[0], cut[-1], strict=True)
        }
        for cut in cuts
    ]
