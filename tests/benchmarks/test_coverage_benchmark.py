"""How often 95 % intervals hold the importance of a fit on fresh sentences: a table of the docs."""

import numpy as np
import pytest
from measuring import report

from intervals import coverage

CASES = [
    *[(100, 2, 0.0), (100, 2, 0.6), (100, 5, 0.6), (300, 2, 0.0), (300, 2, 0.6), (300, 5, 0.6)],
    *[(1000, 2, 0.0), (1000, 3, 0.6), (1000, 5, 0.6)],
]
"""Sentences, levels, and how often the second feature copies the first."""


def cell(shares):
    importance, r2 = shares
    encoded = importance[:3]
    text = f"{100 * encoded.min():.0f} to {100 * encoded.max():.0f} %"
    return text if np.isnan(r2) else f"{text}; {100 * r2:.0f} %"


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_intervals_over_sentences_hold_the_truth():
    lines = [
        "| sentences | levels | copied | layers: importances; R2 | units: importances; R2 "
        "| layers, over pairs | units, over pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    for n, n_levels, copied in CASES:
        repeats = 200 if n < 1000 else 100
        common = {"n_levels": n_levels, "copied": copied}
        own = coverage(n, repeats=repeats, **common)
        pairs = coverage(n, repeats=repeats // 4, folds="pairs", **common)
        cells = [cell(shares[name]) for shares in (own, pairs) for name in ("layer", "unit")]
        lines.append(f"| {n:,} | {n_levels} | {copied:.0%} | " + " | ".join(cells) + " |")
        for name in ("layer", "unit"):
            importance, r2 = own[name]
            assert (importance[:3] > 0.83).all()
            assert r2 > 0.85
            assert (pairs[name][0][:3] < importance[:3]).all()
    report("coverage of 95 % intervals\n" + "\n".join(lines))
