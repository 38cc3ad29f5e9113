"""Simulate how often p-values are significant and draw it: python docs/examples/validity.py.

Makes the two figures of docs/validity.md, in about ten minutes; `main` with few sets is quick.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "benchmarks"))

from sizes import Setting, rate, simulate  # noqa: E402

from mlem_xr.analyses.univariate import UnivariateOptions  # noqa: E402
from mlem_xr.kernels.explain import explain_units  # noqa: E402
from mlem_xr.kernels.features import features_of  # noqa: E402
from mlem_xr.kernels.randomization import randomize  # noqa: E402

LEVEL = 0.05
N_UNITS = 10

PValue = Callable[[NDArray, NDArray, NDArray, int], NDArray]
"""Activations (sentence, unit), codes, items and a seed -> p-values (unit) of the first feature."""


def of_importance(
    activation: NDArray, codes: NDArray, items: NDArray, seed: int, *, folds: str
) -> NDArray:
    """Test importance, with errors over pairs or over sentences."""
    options = UnivariateOptions(folds=folds, random_state=seed)
    return explain_units(activation, items, options, codes=codes)["p_value"][:, 0]


def of_draws(activation: NDArray, codes: NDArray, items: NDArray, seed: int) -> NDArray:
    """Test by conditional randomization."""
    options = SimpleNamespace(
        **{"per": "unit", "distance": "euclidean", "target": "square", "zscore": False},
        **{"n_draws": 199, "random_state": seed},
    )
    return randomize(activation, features_of(codes), items, options)["p_value"][:, 0]


TESTS: Mapping[str, PValue] = {
    "errors over pairs": partial(of_importance, folds="pairs"),
    "errors over sentences": partial(of_importance, folds="sentences"),
    "randomization test": of_draws,
}
SETTINGS = {
    "feature on its own": Setting(about="", n_sentences=120),
    "60 % as an\nencoded feature": Setting(about="", n_sentences=120, correlated=0.6),
    "feature of nouns,\nsentence by sentence": Setting(about="", n_sentences=120, nouns=True),
    "feature of nouns,\nnoun by noun": Setting(
        about="", n_sentences=120, nouns=True, by_items=True
    ),
}
COLORS = {
    "errors over pairs": "#b3446c",
    "errors over sentences": "#e68310",
    "randomization test": "#2a6f97",
}
SHAPES = {"errors over pairs": "s", "errors over sentences": "^", "randomization test": "o"}
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Effects of a level, in standard deviations of the noise times two."""


def share(test: PValue, setting: Setting, strength: float, n_sets: int) -> tuple[float, float]:
    """Return how often a test is significant at 5 %, and the standard error of that."""
    found = []
    for number in range(n_sets):
        rng = np.random.default_rng([round(1000 * strength), number])
        data = simulate(setting, rng, strength=strength, n_units=N_UNITS)
        found.append(test(*data, number))
    return rate(np.array(found), LEVEL)


def draw_sizes(axes: Axes, n_sets: int) -> None:
    """Draw how often a feature that no unit encodes is significant."""
    places = np.arange(len(SETTINGS))
    for shift, (name, test) in zip((-0.2, 0.0, 0.2), TESTS.items(), strict=True):
        shares = [share(test, setting, 0.0, n_sets) for setting in SETTINGS.values()]
        mean, error = np.array(shares).T
        axes.errorbar(
            *(places + shift, mean),
            yerr=1.96 * error,
            fmt=SHAPES[name],
            color=COLORS[name],
            capsize=3,
            label=name,
        )
    axes.axhline(LEVEL, color="0.4", linewidth=1, linestyle="--")
    axes.text(len(SETTINGS) - 0.55, LEVEL, " 5 %", color="0.3", va="bottom", ha="right")
    axes.set_xticks(places, list(SETTINGS))
    axes.set_xlim(-0.5, len(SETTINGS) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("units falsely significant at 5 %")
    axes.set_title("No unit encodes the feature")


def draw_powers(axes: Axes, n_sets: int) -> None:
    """Draw how often a feature that all units encode is significant, by its strength."""
    lines = {
        "feature on its own": "-",
        "60 % as an\nencoded feature": "--",
        "feature of nouns,\nnoun by noun": ":",
    }
    for name, style in lines.items():
        shares = [share(of_draws, SETTINGS[name], strength, n_sets)[0] for strength in STRENGTHS]
        axes.plot(
            *(np.array(STRENGTHS) / 2, shares),
            style,
            marker="o",
            markersize=4,
            color=COLORS["randomization test"],
            label=name.replace("\n", " "),
        )
    axes.axhline(LEVEL, color="0.4", linewidth=1, linestyle="--")
    axes.set_xlabel("effect of a level, in standard deviations of the noise")
    axes.set_ylabel("units significant at 5 %")
    axes.set_ylim(0, 1.02)
    axes.set_title("Every unit encodes the feature: randomization test")


def main(folder: Path = ROOT / "docs" / "images", n_sets: int = 300) -> list[Path]:
    """Simulate and draw; return the files."""
    paths = []
    for name, draw in (("validity_size", draw_sizes), ("validity_power", draw_powers)):
        figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
        draw(axes, n_sets)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=144)
        plt.close(figure)
    return paths


if __name__ == "__main__":
    print(*main(), sep="\n")
