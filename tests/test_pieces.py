from itertools import product

import pytest

from mlem_xr.pieces import cut_into_pieces, n_layers
from mlem_xr.schema import CELL


def cells_of(piece):
    return list(product(*(range(piece[dim].start, piece[dim].stop) for dim in CELL)))


@pytest.mark.parametrize("n_workers", [1, 2, 28])
def test_every_cell_is_in_one_piece(n_workers):
    """Runs of different lengths, with a gap, over two poolings."""
    cells = [(0, seed, 0, p, i) for seed in range(9) for p in (0, 1) for i in range(seed + 1)]
    cells.remove((0, 7, 0, 1, 3))
    pieces = cut_into_pieces(cells, n_workers=n_workers)
    assert [cell for piece in pieces for cell in cells_of(piece)] == cells


def test_pieces_become_small_so_that_workers_end_together():
    cells = [(0, seed, 0, 0, layer) for seed in range(25) for layer in range(12)]
    sizes = [n_layers(piece) for piece in cut_into_pieces(cells, n_workers=2)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 12
    # While the last one is computed, the other worker has nothing to do.
    assert sizes[-1] <= 0.02 * len(cells) / 2
    assert len(sizes) < 1.3 * 25


def test_no_piece_is_more_than_a_small_part_of_the_work():
    cells = [(0, 0, 0, 0, layer) for layer in range(12)]
    assert len(cut_into_pieces(cells, n_workers=1)) == 12
    cells = [(0, 0, 0, 0, layer) for layer in range(120)]
    assert max(map(n_layers, cut_into_pieces(cells, n_workers=1))) == 10


def test_nothing_to_do():
    assert cut_into_pieces([], n_workers=2) == []
