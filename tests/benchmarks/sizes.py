"""How often the randomization test is significant, with and without an effect, in simulations."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.randomization import randomize

NOMINAL = (0.01, 0.05)
"""Significance levels."""

N_NOUNS, N_VERBS = 24, 12

NOUN_EFFECT = 0.7
"""Standard deviation of the nouns' own effects, next to noise of 1."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How sentences and units are simulated; it is the first feature that is tested."""

    about: str
    shares: tuple[float, ...] = (0.5, 0.5)
    """Of the levels of the tested feature."""
    correlated: float = 0.0
    """How often the tested feature has the level of another feature, which all units encode."""
    encoded: float = 1.0
    """The effect of that other feature."""
    n_sentences: int = 200
    nouns: bool = False
    """Whether the tested feature belongs to nouns, which have effects of their own."""
    by_items: bool = False
    """Whether it is drawn noun by noun."""
    undefined: float = 0.0
    """In how many sentences the tested feature is undefined."""
    per: str = "unit"
    """What the distances are over."""


SETTINGS = (
    Setting(about="independent, 2 levels"),
    Setting(about="independent, 4 levels", shares=(0.25,) * 4),
    Setting(about="independent, skewed 90 : 10", shares=(0.9, 0.1)),
    Setting(about="independent, skewed 70 : 20 : 5 : 5", shares=(0.7, 0.2, 0.05, 0.05)),
    Setting(about="60 % correlated with an encoded one, 2 levels", correlated=0.6),
    Setting(
        about="60 % correlated with an encoded one, 4 levels", correlated=0.6, shares=(0.25,) * 4
    ),
    Setting(about="60 % correlated, skewed 90 : 10", correlated=0.6, shares=(0.9, 0.1)),
    Setting(about="60 % correlated with a strongly encoded one", correlated=0.6, encoded=3.0),
    Setting(about="60 % correlated, 30 % undefined", correlated=0.6, undefined=0.3),
    Setting(about="60 % correlated, distances of all units", correlated=0.6, per="layer"),
    Setting(about="nouns with effects, drawn noun by noun", nouns=True, by_items=True),
    Setting(
        about="nouns with effects, 4 levels, noun by noun",
        **{"nouns": True, "by_items": True, "shares": (0.25,) * 4},
    ),
    Setting(
        about="nouns with effects, 60 % correlated, noun by noun",
        **{"nouns": True, "by_items": True, "correlated": 0.6},
    ),
    Setting(
        about="nouns with effects, 60 % correlated with a strongly encoded one, noun by noun",
        **{"nouns": True, "by_items": True, "correlated": 0.6, "encoded": 3.0},
    ),
    Setting(about="nouns with effects, drawn sentence by sentence", nouns=True),
)


def simulate(
    setting: Setting, rng: np.random.Generator, *, strength: float, n_units: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Simulate activations (sentence, unit), codes and items (sentence, feature).

    Features: the tested one; one that every unit encodes; two more. Units are normal, with an
    effect of `strength` of each level of the tested feature.
    """
    n = setting.n_sentences
    n_levels = len(setting.shares)
    n_carriers = N_NOUNS if setting.nouns else n
    while True:
        tested = rng.choice(n_levels, n_carriers, p=setting.shares)
        if len(np.unique(tested)) == n_levels:
            break
    copied = rng.random(n_carriers) < setting.correlated
    encoded = np.where(copied, tested, rng.choice(n_levels, n_carriers, p=setting.shares))
    noun = np.repeat(np.arange(N_NOUNS), -(-n // N_NOUNS))[:n]
    carrier = noun if setting.nouns else np.arange(n)
    others = rng.integers(0, (2, 3), (n, 2))
    codes = np.column_stack([tested[carrier], encoded[carrier], others]).astype(np.int32)
    items = np.repeat(np.arange(n, dtype=np.int32)[:, np.newaxis], 4, axis=1)
    if setting.by_items:
        items[:, :2] = noun[:, np.newaxis]
    activation = rng.normal(size=(n, n_units))
    activation += setting.encoded * _effects(rng, n_levels, n_units)[codes[:, 1]]
    activation += strength * _effects(rng, n_levels, n_units)[codes[:, 0]]
    codes[rng.random(n) < setting.undefined, 0] = -1
    if setting.nouns:
        activation += NOUN_EFFECT * rng.normal(size=(N_NOUNS, n_units))[noun]
    return activation, codes, items


def _effects(rng: np.random.Generator, n_levels: int, n_units: int) -> NDArray:
    """Give every level an effect on every unit: their standard deviation is 1 / 2 in each unit."""
    effect = rng.normal(size=(n_levels, n_units))
    effect -= effect.mean(axis=0)
    return effect / effect.std(axis=0) / 2


def p_values(
    setting: Setting,
    *,
    strength: float,
    n_sets: int,
    n_units: int = 10,
    n_draws: int = 199,
    seed: int = 0,
) -> tuple[NDArray, NDArray]:
    """Test the first feature in simulated sets of sentences.

    Returns p-values and family-wise p-values (set, unit).
    """
    options = {"per": setting.per, "distance": "euclidean", "target": "square", "zscore": False}
    single, family = [], []
    for number in range(n_sets):
        rng = np.random.default_rng([seed, number])
        activation, codes, items = simulate(setting, rng, strength=strength, n_units=n_units)
        own = SimpleNamespace(**options, n_draws=n_draws, random_state=number)
        found = randomize(activation, features_of(codes), items, own)
        single.append(np.atleast_2d(found["p_value"])[:, 0])
        family.append(np.atleast_2d(found["p_value_max"])[:, 0])
    return np.array(single), np.array(family)


def rate(p_value: NDArray, level: float) -> tuple[float, float]:
    """Return how often p-values are significant, and the standard error of that over sets."""
    per_set = (p_value <= level).mean(axis=1)
    return float(per_set.mean()), float(per_set.std(ddof=1) / np.sqrt(len(per_set)))


def table(*, n_sets: int, n_power: int, n_units: int = 10) -> pd.DataFrame:
    """Size, power and family-wise size in all settings: rates of significance and their errors.

    Where the distances are over all units, there are as many sets as there are units elsewhere.
    """
    rows = []
    for setting in SETTINGS:
        row: dict[str, object] = {"setting": setting.about}
        times = n_units if setting.per == "layer" else 1
        sizes = {"n_sets": n_sets * times, "n_units": n_units}
        single, family = p_values(setting, strength=0.0, **sizes)
        row["tests"] = single.size
        for level in NOMINAL:
            row[f"size at {level:.0%}"], row[f"error at {level:.0%}"] = rate(single, level)
        if setting.per == "unit":
            lowest = family.min(axis=1, keepdims=True)
            row["family-wise"], row["error of family-wise"] = rate(lowest, 0.05)
        for name, strength in (("strong", 1.0), ("half", 0.5)):
            own, _ = p_values(setting, strength=strength, n_sets=n_power, n_units=n_units, seed=1)
            row[f"power, {name}"] = rate(own, 0.05)[0]
        rows.append(row)
    return pd.DataFrame(rows)


def in_markdown(found: pd.DataFrame) -> str:
    """Write the table of sizes in Markdown."""
    names = [
        *("tested feature", "tests", "size at 1 %", "size at 5 %"),
        *("any of 10 units, family-wise at 5 %", "power at 5 %, strong", "half as strong"),
    ]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in found.to_dict("records"):
        shown = [
            f"{100 * row[size]:.1f} ± {100 * row[error]:.1f} %" if row[size] == row[size] else ""
            for size, error in (
                *(("size at 1%", "error at 1%"), ("size at 5%", "error at 5%")),
                ("family-wise", "error of family-wise"),
            )
        ]
        powers = [f"{100 * row[f'power, {name}']:.0f} %" for name in ("strong", "half")]
        cells = [row["setting"], f"{row['tests']:,}", *shown, *powers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
