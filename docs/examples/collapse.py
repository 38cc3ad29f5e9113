"""Draw how pairs of sentences collapse to covariate patterns: python docs/examples/collapse.py."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mlem_xr as mx

PICTURE = Path(__file__).parents[1] / "images" / "collapse.svg"
SENTENCES = pd.DataFrame(
    [
        ("the girl sings.", "sg", "pres"),
        ("the girls sing.", "pl", "pres"),
        ("the girl sang.", "sg", "past"),
        ("the girls sang.", "pl", "past"),
        ("the boy sings.", "sg", "pres"),
        ("who sings?", None, "pres"),
    ],
    columns=["sentence", "number", "tense"],
)
COLORS = ["#bbbbbb", "#56b4e9", "#e69f00", "#009e73"]
"""Of the patterns 00, 10, 01 and 11: can be told apart by color-blind readers."""


def draw() -> None:
    """Draw sentences, pairs and patterns from left to right."""
    distances = mx.feature_distances(mx.read_stimuli(SENTENCES))
    pattern = (distances.values @ [1, 2]).astype(int)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(9, 3.1), width_ratios=[2.9, 2.7, 3.4], layout="constrained"
    )
    for axes in (left, middle, right):
        axes.set_axis_off()
        axes.set_ylim(6.6, -1.2)
    _sentences(left)
    _pairs(middle, pattern)
    _patterns(right, pattern)
    for axes, title in (
        (left, f"{len(SENTENCES)} sentences"),
        (middle, f"{len(pattern)} pairs"),
        (right, f"{len(np.unique(pattern))} covariate patterns"),
    ):
        axes.set_title(title, fontsize=13, fontweight="bold")
    plt.rcParams["svg.hashsalt"] = "collapse"
    figure.savefig(PICTURE, metadata={"Date": None}, facecolor="white")


def _sentences(axes: Any) -> None:
    axes.set_xlim(0, 10)
    for x, name in ((5.9, "number"), (8.6, "tense")):
        axes.text(x, -0.5, name, fontsize=10, style="italic", ha="center")
    for i, row in enumerate(SENTENCES.fillna("–").itertuples()):
        axes.text(0, i + 0.5, f"{i + 1}  {row.sentence}", fontsize=10, va="center")
        axes.text(5.9, i + 0.5, row.number, fontsize=10, va="center", ha="center")
        axes.text(8.6, i + 0.5, row.tense, fontsize=10, va="center", ha="center")


def _pairs(axes: Any, pattern: np.ndarray) -> None:
    axes.set_xlim(-0.8, 6.4)
    axes.set_aspect("equal")
    for i in range(len(SENTENCES)):
        axes.text(i + 0.5, -0.3, i + 1, fontsize=10, ha="center", va="center")
        axes.text(-0.3, i + 0.5, i + 1, fontsize=10, ha="center", va="center")
    for i, j, p in zip(*np.triu_indices(len(SENTENCES), 1), pattern, strict=True):
        square = plt.Rectangle((j, i), 1, 1, facecolor=COLORS[p], edgecolor="white", linewidth=2)
        axes.add_patch(square)
        axes.text(j + 0.5, i + 0.5, "y", fontsize=10, style="italic", ha="center", va="center")
    axes.text(0.3, 4.3, "each pair has\na target y", fontsize=9, va="center")


def _patterns(axes: Any, pattern: np.ndarray) -> None:
    axes.set_xlim(0, 10)
    columns = ((2.4, "number\ndiffers"), (4.6, "tense\ndiffers"), (6.5, "pairs"), (8.7, "sums"))
    for x, name in columns:
        axes.text(x, -0.4, name, fontsize=10, style="italic", ha="center", va="center")
    for row, p in enumerate(range(4)):
        y = 1.3 * row + 1
        square = plt.Rectangle((0, y - 0.4), 0.9, 0.8, facecolor=COLORS[p])
        axes.add_patch(square)
        cells = (str(p % 2), str(p // 2), str((pattern == p).sum()), "Σ y,  Σ y²")
        for (x, _), text in zip(columns, cells, strict=True):
            axes.text(x, y, text, fontsize=11, ha="center", va="center")
    axes.text(0, 6.1, "All that the fit and the importances need.", fontsize=9, va="center")


if __name__ == "__main__":
    draw()
