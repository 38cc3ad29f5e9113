"""What the analyses of importance share: their options and outputs, and the checks of features."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from mlem_xr.analyses.base import Output
from mlem_xr.analyses.neural_distances import distance_option
from mlem_xr.analyses.options import SEED, Options, number, option, sorted_tuple
from mlem_xr.kernels.distances import Function, find_distance
from mlem_xr.kernels.targets import TARGETS
from mlem_xr.schema import InputError, check_text, several, shown, warn

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties among which the validation pairs choose."""

_SMALLEST_ALPHA = 1e-6
"""A smaller penalty drowns in rounding where two features are the same on all pairs."""

Conditional = Literal[False, True, "exact"]
Folds = Literal["pairs", "sentences"]
Scale = Literal["linear", "squared"]
Per = Literal["layer", "unit"]
"""What the distances are over: all units of a layer, or each alone."""


Groups = Mapping[str, Iterable[str]]


def _checked_groups(name: str, value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return groups as pairs of a name and its features; they may be such pairs already."""
    if value is None:
        return ()
    pairs = isinstance(value, tuple | list) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in value
    )
    if not pairs and not isinstance(value, Mapping):
        expected = 'a mapping of names to features, such as {"subject": ["number", "gender"]}'
        raise InputError(f"{name}: found {shown(value)}; expected {expected}")
    found = {}
    for group, features in value.items() if isinstance(value, Mapping) else value:
        label = check_text(name, group, "the name of a group")
        members = several(f"{name}: {label!r}", features, check_text, twice=False)
        found[label] = tuple(members)
    return tuple(found.items())


def groups_option(what: str) -> Any:
    """Describe the option of groups of features, which are `what` together."""
    return option(
        None,
        f"NAME=FEATURES: features, with commas between them, that are {what} together too.",
        check=_checked_groups,
        each=str,
        flag="group",
    )


@dataclass(frozen=True, kw_only=True)
class MetricOptions(Options):
    """The options of whatever fits a metric."""

    distance: str | Function = distance_option()
    target: str = option(
        "square", "What is predicted: square, or none (the distance itself).", known=TARGETS
    )
    min_max: bool | None = option(
        None, "Scale the distances to [0, 1]; by default with folds of pairs, not of sentences."
    )
    zscore: bool = option(False, "Bring every unit to mean 0 and standard deviation 1.")
    scale: Scale = option(
        "linear", "Distances of numeric and vector features as they are, or squared."
    )
    folds: Folds = option("pairs", "What is split into folds.")
    random_state: int = option(0, "Seed of the folds.", check=SEED)
    alphas: Iterable[float] = option(
        ALPHAS,
        "A ridge penalty to choose from.",
        check=sorted_tuple(
            number(f"finite numbers of at least {_SMALLEST_ALPHA}", lambda a: a >= _SMALLEST_ALPHA)
        ),
        each=float,
        flag="alpha",
    )

    @classmethod
    def settled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Choose the scale that goes with the folds, where none is given."""
        if values["min_max"] is not None:
            return values
        return values | {"min_max": values["folds"] == "pairs"}


@dataclass(frozen=True, kw_only=True)
class ImportanceOptions(MetricOptions):
    """The options of an analysis of importance."""

    conditional: Conditional = option(
        False, "Permute only what the other features do not predict: no, yes (a forest) or exact."
    )
    groups: Groups | None = groups_option("permuted")
    mae: bool = option(False, "Compute the mean absolute error too.")


def check_of_one_unit(options: Any) -> None:
    """Refuse distances that mean nothing in one dimension, where single units are asked for."""
    if options.per == "unit" and not find_distance(options.distance).of_one_unit:
        raise InputError(
            f"distance: {options.distance!r} means nothing for a single unit; "
            "expected another one, such as 'euclidean', or per='layer'"
        )


INPUTS: Mapping[str, tuple[str, ...]] = {
    "activation": ("sentence", "unit"),
    "items": ("sentence", "feature"),
    "codes": ("sentence", "feature"),
    "position": ("sentence", "axis"),
    "axis_of": ("axis",),
    "given": ("given", "sentence", "other_sentence"),
    "given_of": ("given",),
}
"""The activations, the items that sentences belong to, and the fields of
`mlem_xr.kernels.features.Features`."""

IMPORTANCE_INPUTS = {**INPUTS, "groups": ("group", "feature")}
"""Which features each group has, too."""


def labels_of(options: Options, features: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return the labels of the folds, and those of features where there are groups beside them."""
    return {"fold": [0, 1], **labels_of_groups(options, features)}


def labels_of_groups(options: Options, features: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return the labels of features where there are groups beside them."""
    groups = options.settings()["groups"]
    return {"feature": [*features, *(group for group, _ in groups)]} if groups else {}


WITHOUT_ITEMS = "errors over pairs know no items; folds='sentences' gives errors over items"


def with_items(options: ImportanceOptions) -> bool:
    """Say whether errors are over items, where features belong to some."""
    return options.folds == "sentences"


def outputs(options: ImportanceOptions, over: str | None = None) -> dict[str, Output]:
    """Return the outputs of an analysis of importance, of one target or of several.

    Parameters
    ----------
    options : ImportanceOptions
        The options of the analysis.
    over : str, optional
        The dimension of the targets.
    """
    own = () if over is None else (over,)
    feature, fold = (*own, "feature"), (*own, "fold")
    score = "on held-out pairs"
    over_sentences = options.folds == "sentences"
    basis = "over sentences" if over_sentences else "over pairs, as if they were independent"
    found = {
        "importance": Output(
            feature, "mean increase of the squared error when the feature is permuted", "target^2"
        ),
        "std_error": Output(
            feature, f"standard error of the importance {basis}", "target^2", original="std"
        ),
        "p_value": Output(feature, f"one-sided p-value of the importance {basis}", original="pval"),
        "weight": Output(
            (*fold, "feature"), "non-negative weight of the feature distance", "target"
        ),
        "alpha": Output(fold, "chosen ridge penalty"),
        "intercept": Output(fold, "intercept of the metric", "target"),
        "r2": Output(own, f"coefficient of determination {score}", original="score_R2"),
        "r": Output(
            own, f"Pearson correlation of predicted and actual target {score}", original="score_R"
        ),
        "mse": Output(own, f"mean squared error {score}", "target^2", original="score_MSE"),
        "variance": Output(own, "variance of the target on held-out pairs", "target^2"),
    }
    if over_sentences:
        found["r2_std_error"] = Output(own, "standard error of R2 over sentences")
    if options.mae:
        found["mae"] = Output(own, f"mean absolute error {score}", "target", original="score_MAE")
    return found


_FEWEST_ITEMS = 3
"""Items of a feature that an error over them takes: one more than there are folds."""


def warn_of_useless_features(arrays: Mapping[str, xr.DataArray], _: Any) -> None:
    """Warn of features that differ in no pair or in every pair, or have too few items."""
    codes = arrays["codes"]
    columns = zip(codes["feature"].values, arrays["items"].values.T, strict=True)
    few = [str(name) for name, column in columns if len(np.unique(column)) < _FEWEST_ITEMS]
    if few:
        warn(
            f"items: {', '.join(few)} have fewer than {_FEWEST_ITEMS} items, which an error over "
            "items takes; standard errors and p-values NaN"
        )
    warn_of_constant_distances(arrays, "importance 0, p-value 1")


def warn_of_constant_distances(arrays: Mapping[str, xr.DataArray], consequence: str) -> None:
    """Warn of features that differ in no pair or in every pair."""
    codes = arrays["codes"]
    names = [str(name) for name in codes["feature"].values]
    levels = {
        name: (len(np.unique(column[column >= 0])), len(column))
        for name, column in zip(names, codes.values.T, strict=True)
    }
    largest = _largest_of_measured(arrays, names)
    constant = [k for k, (n_levels, _) in levels.items() if largest.get(k, n_levels - 1) <= 0]
    if constant:
        warn(f"features: {', '.join(constant)} never differ between two sentences; {consequence}")
    distinct = [k for k, (n_levels, n) in levels.items() if n_levels == n and k not in largest]
    if distinct:
        warn(
            f"features: {', '.join(distinct)} differ between all sentences, as a number of the row "
            f"does; {consequence}"
        )


def _largest_of_measured(arrays: Mapping[str, xr.DataArray], names: list[str]) -> dict[str, float]:
    """Return how far apart sentences are, of features that are not categorical; 0: not at all."""
    largest: dict[str, float] = {}
    for k, axis in zip(arrays["axis_of"].values, arrays["position"].values.T, strict=True):
        there = axis[~np.isnan(axis)]
        apart = float(np.ptp(there)) if len(there) else 0.0
        largest[names[k]] = max(apart, largest.get(names[k], 0.0))
    for k, table in zip(arrays["given_of"].values, arrays["given"].values, strict=True):
        largest[names[k]] = float(table.max(initial=0.0))
    return largest
