"""How a stimulus set is balanced: levels, pairs, patterns, items, features that go together."""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.patterns import sums_over_pairs
from mlem_xr.schema import NUMERIC, check_features, check_items, kind_of, warn
from mlem_xr.stimuli.items import item_codes
from mlem_xr.stimuli.pairs import correlation_of, features_in
from mlem_xr.stimuli.table import declared_items, feature_values, to_codes

MAX_CORRELATION = 0.5
"""Absolute correlation of two features' distances above which their importances are hard to tell
apart."""

MAX_EXPLAINED = 0.9
"""Share of a feature distance's variance that the other ones explain above which hardly anything is
left that would be its own."""

MIN_DIFFERING = 0.02
"""Share of the pairs below which a feature differs in so few that its importance is uncertain."""

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of which quantiles of numeric features are shown."""

_SHOWN_LEVELS = 8


def describe_stimuli(stimuli: xr.Dataset) -> xr.Dataset:
    """Describe how the features of a stimulus set are balanced.

    Parameters
    ----------
    stimuli : xr.Dataset
        As `read_stimuli` returns it, or activations: one coordinate over `sentence` per feature.

    Returns
    -------
    xr.Dataset
        Dimensions `feature`, `other_feature`, `level_number` (levels ascend) and `item` (columns of
        items, if there are some), with

        - `kind` (feature) object: `categorical`, `numeric` or `vector`;
        - `level` (feature, level_number) object: the values of categorical features; None beyond
          the last one;
        - `level_count` (feature, level_number) int64: sentences with that value;
        - `undefined` (feature) int64: sentences that leave the feature undefined;
        - `quantile` (feature, share) float64: smallest value, quartiles and largest value of
          numeric features; NaN of others;
        - `differing_pairs` (feature) int64: pairs of sentences whose feature distance is not 0;
        - `correlation` (feature, other_feature) float64: of the feature distances over all pairs;
          NaN where a feature distance is constant;
        - `constant` (feature) bool: no two sentences differ in the feature;
        - `determines` (feature, other_feature) bool: sentences that agree in `feature`, which is
          categorical (undefined being a value of its own), agree in `other_feature`, which is not
          constant;
        - `explained` (feature) float64: share of the variance of the feature distance over all
          pairs that the other feature distances explain together (linear regression); NaN where
          the feature is constant;
        - `varies_within` (feature, other_feature) int64: levels of `other_feature`, which is
          categorical (undefined being one), within which sentences differ in `feature`;
        - `n_levels` (feature) int64: levels of a categorical feature, undefined being one; 0 of
          others;
        - `belongs_to` (feature) object: the column of the items that the feature says it belongs
          to; empty where there is none;
        - `n_items`, `smallest_item`, `largest_item`, `without_item` (item) int64: different items
          of the column, sentences of the one with the fewest and of the one with the most, and
          sentences without one;
        - `n_sentences`, `n_pairs`, `n_patterns` (no dimension) int64: sentences, pairs of them, and
          covariate patterns (as many as pairs where nearly every pair has its own).

    Raises
    ------
    InputError
        If there is no feature.

    Warns
    -----
    UserWarning
        If feature distances correlate above 0.5 in absolute value; if the others explain more than
        90% of the variance of one; if sentences differ in a feature in less than 2% of the pairs.
        The messages name the features, and what to do.

    Examples
    --------
    >>> from mlem_xr.stimuli import read_stimuli
    >>> description = describe_stimuli(read_stimuli("short_sentence"))
    >>> int(description.n_pairs), int(description.n_patterns)
    (135981, 256)
    >>> description.level.sel(feature="subj_PERS").values[:3].tolist()
    [1, 2, 3]
    >>> description.level_count.sel(feature="subj_PERS").values[:3].tolist()
    [24, 12, 486]
    >>> description.n_items.to_series().to_dict()
    {'subj_LEMMA': 23, 'verb_LEMMA': 6}
    """
    names, items = check_features(stimuli), check_items(stimuli)
    belongs = declared_items(stimuli, names)
    sizes = [np.bincount(codes[codes >= 0]) for codes in (item_codes(stimuli, i) for i in items)]
    coded = [to_codes(feature_values(stimuli, name)) for name in names]
    codes = np.stack([code for code, _ in coded])
    kinds = [kind_of(stimuli, name) for name in names]
    measured = np.array([kind != "categorical" for kind in kinds])
    counts, sums = sums_over_pairs(features_in(stimuli, names))
    constant = counts.differing == 0
    level, count = _levels([(c[0], []) if m else c for m, c in zip(measured, coded, strict=True)])
    determines = _determines(codes) & ~constant & ~measured[:, np.newaxis]
    correlation = correlation_of(names, sums)
    description = xr.Dataset(
        {
            "level": (("feature", "level_number"), level),
            "level_count": (("feature", "level_number"), count),
            "undefined": ("feature", (codes < 0).sum(axis=1)),
            "differing_pairs": ("feature", counts.differing),
            "correlation": correlation,
            "constant": ("feature", constant),
            "determines": (("feature", "other_feature"), determines),
            "explained": ("feature", _explained(correlation.values)),
            "varies_within": (("feature", "other_feature"), _varies_within(codes, measured)),
            "n_levels": ("feature", np.where(measured, 0, [len(np.unique(c)) for c in codes])),
            "kind": ("feature", np.array(kinds, dtype=object)),
            "quantile": (("feature", "share"), _quantiles(stimuli, names, kinds)),
            "belongs_to": ("feature", np.array([belongs.get(k, "") for k in names], dtype=object)),
            "n_items": ("item", _whole(map(len, sizes))),
            "smallest_item": ("item", _whole(min(size, default=0) for size in sizes)),
            "largest_item": ("item", _whole(max(size, default=0) for size in sizes)),
            "without_item": ("item", stimuli.sizes["sentence"] - _whole(map(sum, sizes))),
            "n_sentences": stimuli.sizes["sentence"],
            "n_pairs": int(sums.n_pairs),
            "n_patterns": counts.n_patterns,
        },
        coords={
            "feature": names,
            "other_feature": names,
            "item": np.array(items, dtype=object),
            "share": list(_SHARES),
        },
        attrs={"stimuli": stimuli.attrs.get("stimuli", "stimuli")},
    )
    _warn(description)
    return description


def description_text(description: xr.Dataset) -> str:
    """Write what `describe_stimuli` returns as a text to read, with one line per column."""
    n_pairs = int(description["n_pairs"])
    lines = [
        f"{description.attrs['stimuli']}: {int(description['n_sentences']):,} sentences, "
        f"{description.sizes['feature']} features, {n_pairs:,} pairs, "
        f"{_patterns_text(int(description['n_patterns']), n_pairs)}",
        "",
        *_feature_lines(description, n_pairs),
        "",
        *_item_lines(description),
    ]
    correlated = [f"{a} and {b} ({value:.2f})" for a, b, value in _correlated(description)]
    constant = description["feature"].values[description["constant"].values]
    lines += _listed(f"correlation of feature distances above {MAX_CORRELATION}", correlated)
    lines += _listed("constant", [str(name) for name in constant])
    lines += _listed("determined by another feature", _confounded(description))
    for title, found in (
        (
            f"explained above {MAX_EXPLAINED:.0%} by the others together",
            _explained_above(description),
        ),
        (f"differs in less than {MIN_DIFFERING:.0%} of the pairs", _rarely_differing(description)),
        ("varies within a minority of the levels of another feature", _nested(description)),
    ):
        # What is rare is not said to be missing.
        lines += _listed(title, found) if found else []
    return "\n".join(lines)


def _quantiles(stimuli: xr.Dataset, names: list[str], kinds: list[str]) -> NDArray:
    """Quantiles of the numeric features, NaN of others: (feature, share)."""
    found = np.full((len(names), len(_SHARES)), np.nan)
    for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        values = feature_values(stimuli, name)
        if kind == NUMERIC and not np.isnan(values).all():
            found[k] = np.nanquantile(values, _SHARES)
    return found


def _patterns_text(n_patterns: int, n_pairs: int) -> str:
    if n_patterns == n_pairs:
        return "a covariate pattern of its own for nearly every pair"
    return f"{n_patterns:,} covariate patterns"


def _levels(coded: list[tuple[NDArray, list]]) -> tuple[NDArray, NDArray]:
    """Values, ascending, and counts of every feature, padded to the largest number of levels."""
    shape = len(coded), max(len(levels) for _, levels in coded)
    level, count = np.full(shape, None, dtype=object), np.zeros(shape, dtype=np.int64)
    for k, (codes, levels) in enumerate(coded):
        if not levels:
            continue
        counts = np.bincount(codes[codes >= 0], minlength=len(levels))
        # Numbers before words, which do not compare.
        order = sorted(range(len(levels)), key=lambda i: (isinstance(levels[i], str), levels[i]))
        level[k, : len(levels)] = [levels[i] for i in order]
        count[k, : len(levels)] = counts[order]
    return level, count


def _determines(codes: NDArray) -> NDArray:
    """Whether a row's codes fix those of another row: bool (feature, other_feature)."""
    n_levels = np.array([len(np.unique(row)) for row in codes])
    joint = np.array([[_n_distinct(one, other) for other in codes] for one in codes])
    return (joint == n_levels[:, np.newaxis]) & ~np.eye(len(codes), dtype=bool)


def _n_distinct(one: NDArray, other: NDArray) -> int:
    combined = (one + 1).astype(np.int64) * (int(other.max()) + 2) + (other + 1)
    return len(np.unique(combined))


def _correlated(description: xr.Dataset) -> list[tuple[str, str, float]]:
    """Pairs of features above the bound, the most correlated first."""
    names = description["feature"].values
    value = np.triu(np.nan_to_num(description["correlation"].values), 1)
    above = zip(*np.nonzero(np.abs(value) > MAX_CORRELATION), strict=True)
    pairs = [(str(names[i]), str(names[j]), float(value[i, j])) for i, j in above]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def _confounded(description: xr.Dataset) -> list[str]:
    names = description["feature"].values
    determines = description["determines"].values
    return [
        f"{other} by {', '.join(map(str, names[determines[:, k]]))}"
        for k, other in enumerate(names)
        if determines[:, k].any()
    ]


def _explained(correlation: NDArray) -> NDArray:
    """Share of each feature distance's variance that all others explain: (feature)."""
    varies = ~np.isnan(np.diag(correlation))
    known = correlation[np.ix_(varies, varies)]
    share = np.full(len(correlation), np.nan)
    found = []
    for k in range(len(known)):
        own, others = np.delete(known[k], k), np.delete(np.delete(known, k, 0), k, 1)
        found.append(own @ np.linalg.lstsq(others, own)[0] if len(own) else 0.0)
    share[varies] = np.clip(found, 0.0, 1.0)
    return share


def _varies_within(codes: NDArray, measured: NDArray) -> NDArray[np.int64]:
    """Levels of another feature within which a feature varies: (feature, other_feature)."""
    found = np.zeros((len(codes),) * 2, np.int64)
    for j in np.flatnonzero(~measured):
        level = np.unique(codes[j], return_inverse=True)[1]
        for k in np.flatnonzero(np.arange(len(codes)) != j):
            defined = codes[k] >= 0
            both = np.unique(np.stack([level[defined], codes[k][defined]]), axis=1)
            found[k, j] = (np.bincount(both[0]) > 1).sum()
    return found


def _explained_above(description: xr.Dataset) -> list[str]:
    share = description["explained"]
    above = share.where(share > MAX_EXPLAINED, drop=True)
    return [f"{name} ({value:.0%})" for name, value in above.to_series().items()]


def _rarely_differing(description: xr.Dataset) -> list[str]:
    share = description["differing_pairs"] / description["n_pairs"]
    rare = share.where((share < MIN_DIFFERING) & ~description["constant"], drop=True)
    return [f"{name} ({value:.2g}%)" for name, value in (100 * rare).to_series().items()]


def _nested(description: xr.Dataset) -> list[str]:
    """Say of each feature within how few levels it varies, of a feature that all sentences have."""
    names, n_levels = description["feature"].values, description["n_levels"].values
    telling = (n_levels > 2) & (description["undefined"].values == 0)
    found = []
    for k, within in enumerate(description["varies_within"].values):
        share = {j: within[j] / n_levels[j] for j in np.flatnonzero(telling).tolist() if j != k}
        j = min(share, key=lambda other: share[other], default=k)
        if share.get(j, 1.0) < 0.5 and not description["constant"][k]:
            found.append(f"{names[k]}: {within[j]} of {n_levels[j]} levels of {names[j]}")
    return found


def _warn(description: xr.Dataset) -> None:
    correlated = [f"{a} and {b} ({value:.2f})" for a, b, value in _correlated(description)]
    if correlated:
        listed = ", ".join(correlated)
        warn(f"stimuli: feature distances correlate above {MAX_CORRELATION}: {listed}")
    explained = _explained_above(description)
    if explained:
        warn(
            "stimuli: the other features explain nearly all of the distances of "
            f"{', '.join(explained)}; leave some of them out (features=) or permute them together "
            "(groups=)"
        )
    rare = _rarely_differing(description)
    if rare:
        warn(
            f"stimuli: few pairs of sentences differ in {', '.join(rare)}; analyze the sentences "
            "that define such a feature alone, or read its importance with its error"
        )


def _feature_lines(description: xr.Dataset, n_pairs: int) -> list[str]:
    rows = [("feature", "undefined", "pairs that differ", "levels")]
    for name in description["feature"].values:
        feature = description.sel(feature=name, other_feature=name)
        differing = int(feature["differing_pairs"])
        share = f"{differing:,} ({differing / n_pairs:.0%})"
        rows.append((str(name), f"{int(feature['undefined']):,}", share, _level_text(feature)))
    return _aligned(rows)


def _item_lines(description: xr.Dataset) -> list[str]:
    if not description.sizes["item"]:
        return []
    rows = [("items", "number", "sentences of each", "features")]
    belongs = description["belongs_to"]
    for name in description["item"].values:
        column = description.sel(item=name)
        fewest, most = int(column["smallest_item"]), int(column["largest_item"])
        size = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        size += f" ({int(column['without_item']):,} without)" if column["without_item"] else ""
        features = belongs["feature"].values[belongs.values == name]
        rows.append((str(name), f"{int(column['n_items']):,}", size, ", ".join(features)))
    return [*_aligned(rows), ""]


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{first:<{width[0]}}  {second:>{width[1]}}  {third:>{width[2]}}  {last}".rstrip()
        for first, second, third, last in rows
    ]


def _whole(numbers: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(numbers), dtype=np.int64)


def _level_text(feature: xr.Dataset) -> str:
    if feature["kind"] == NUMERIC:
        smallest, *quartiles, largest = (f"{value:.4g}" for value in feature["quantile"].values)
        return f"{smallest} to {largest}, quartiles {', '.join(quartiles)}"
    if feature["kind"] != "categorical":
        return str(feature["kind"].item())
    n_levels = int((feature["level_count"] > 0).sum())
    values = zip(feature["level"].values, feature["level_count"].values, strict=True)
    shown = [f"{level}: {count:,}" for level, count in list(values)[: min(n_levels, _SHOWN_LEVELS)]]
    more = [f"{n_levels - _SHOWN_LEVELS} more"] if n_levels > _SHOWN_LEVELS else []
    return ", ".join(shown + more)


def _listed(title: str, items: list[str]) -> list[str]:
    if not items:
        return [f"{title}: none"]
    return [f"{title}:", *(f"  {item}" for item in items)]
