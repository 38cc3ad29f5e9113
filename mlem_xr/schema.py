"""Names of dimensions and variables, what each must look like, and the checks that say so.

Everything here is plain data and plain checks; the rest of the package imports it and it imports
nothing of ours.
"""

import sys
import warnings
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

CHECKPOINT = ("model", "seed", "step")
"""Dimensions that name one set of weights."""

REPRESENTATION = (*CHECKPOINT, "pooling", "layer")
"""Dimensions that name one matrix of activations (sentence x unit)."""

ACTIVATION = (*REPRESENTATION, "sentence", "unit")
"""Dimensions of the activations, in the order in which they are stored."""

POOLINGS = ("first-token", "mean", "last-token")
"""How token activations become one vector per sentence."""

FINAL_STEP = -1
"""The step of a network whose training step is final or not stated."""

LABELS = 2**63
"""The first number that is too large for a label."""

FINAL = "final"
"""What people read in its place."""

MIN_SENTENCES = 4
"""Two folds need two training sentences each."""

DIMENSIONS = {
    "model": "name of the network",
    "seed": "random seed of the network's training",
    "step": "training step; -1: final, or not stated",
    "pooling": "how token activations become one vector per sentence",
    "layer": "1: first block; 0: embeddings",
    "sentence": "position of the sentence in the stimulus table",
    "unit": "position of the unit in the layer's output",
}
"""What the values along each dimension mean."""

RESERVED = frozenset(
    {*DIMENSIONS, "text", "activation", "recorded", "fingerprint", "provenance", "results"}
    | {"feature", "other_feature", "other_sentence", "pair", "fold", "subset", "pattern", "k"}
    | {"unit_layer", "unit_number", "axis", "position", "stress", "computed_from"}
)
"""Names that a feature may not have, because the library uses them."""


class InputError(ValueError):
    """A mistake of the caller's: names the argument, what was found and what is expected."""


class WorkerError(RuntimeError):
    """Worker processes died one after another on a piece of work: names it and the likely cause."""


def choose(argument: str, value: Hashable, known: Iterable[Any]) -> Any:
    """Return `value` if it is among the `known` ones; else raise an error that lists them."""
    known = list(known)
    if value in known:
        return value
    raise InputError(f"{argument}: unknown value {plain_value(value)!r}; known: {listed(known)}")


def plain_value(value: Any) -> Any:
    """Turn a NumPy scalar into a plain Python object; leave anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def listed(values: Iterable[Any]) -> str:
    """List values for an error: `'a', 'b'`, or `none`."""
    return ", ".join(repr(plain_value(value)) for value in values) or "none"


def check_integer(argument: str, value: Any, *, at_least: int = 0, below: int | None = None) -> int:
    """Return `value` as an int if it is an integer of at least `at_least` and below `below`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < at_least or (below is not None and value >= below):
        limit = "" if below is None else f" and below {below}"
        raise InputError(
            f"{argument}: found {value!r}; expected an integer of at least {at_least}{limit}"
        )
    return int(value)


def check_bool(argument: str, value: Any) -> bool:
    """Return `value` if it is True or False, and nothing that merely counts as one."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{argument}: found {value!r}; expected True or False")
    return bool(value)


def check_model(model: Any) -> str:
    """Return the label of a network, which must be a word."""
    if not isinstance(model, str) or not model.strip() or "\0" in model:
        raise InputError(f"model: found {model!r}; expected a name")
    return model


def several(argument: str, value: Any) -> list[Any]:
    """Return one value or several as a list, each once; refuse an empty one."""
    single = isinstance(value, str) or not isinstance(value, Iterable)
    values = [value] if single else list(dict.fromkeys(map(plain_value, value)))
    if not values:
        raise InputError(f"{argument}: an empty list; expected at least one value")
    return values


def select(data: xr.Dataset, labels: Mapping[str, Iterable[Any] | None]) -> xr.Dataset:
    """Keep the given labels of each dimension, in the order given, each once.

    None or an empty list keeps all labels of a dimension.
    """
    given = {dim: values for dim, values in labels.items() if values is not None}
    wanted = {dim: list(dict.fromkeys(values)) for dim, values in given.items()}
    for dim, values in wanted.items():
        known = data[choose("dimension", dim, data.dims)].values.tolist()
        for value in values:
            choose(dim, value, known)
    return data.sel({dim: values for dim, values in wanted.items() if values})


def check_activations(activations: xr.Dataset) -> None:
    """Check that a Dataset holds activations and the features of their sentences.

    It needs a variable `activation` (..., sentence, unit) of a floating type, with no dimension
    beside those in `ACTIVATION`.
    """
    if not isinstance(activations, xr.Dataset):
        raise InputError(f"activations: expected an xarray Dataset, found {type(activations)}")
    if "activation" not in activations.data_vars:
        found = listed(activations.data_vars)
        raise InputError(f"activations: no variable 'activation'; found: {found}")
    variable = activations["activation"]
    missing = [dim for dim in ("sentence", "unit") if dim not in variable.dims]
    if missing:
        raise InputError(
            f"activations: 'activation' has the dimensions {listed(variable.dims)}, "
            f"which lack {listed(missing)}"
        )
    unknown = [dim for dim in variable.dims if dim not in ACTIVATION]
    if unknown:
        raise InputError(
            f"activations: 'activation' has unknown dimensions: {listed(unknown)}; "
            f"known: {listed(ACTIVATION)}"
        )
    if not np.issubdtype(variable.dtype, np.floating):
        raise InputError(
            f"activations: 'activation' has dtype {variable.dtype}; expected a floating type"
        )
    check_features(activations)


def check_features(data: xr.Dataset, features: Iterable[str] | None = None) -> list[str]:
    """Return the names of the features to use, in order.

    A feature is a coordinate over `sentence` alone whose name is not `RESERVED`. The attribute
    `features`, if there, says which of them count and in which order.
    """
    found = [
        str(name)
        for name, coordinate in data.coords.items()
        if coordinate.dims == ("sentence",) and name not in RESERVED
    ]
    known = [name for name in data.attrs.get("features", found) if name in found]
    if not known:
        raise InputError("features: none found; expected a coordinate over 'sentence' for each")
    asked = [features] if isinstance(features, str) else features
    if asked is not None and not isinstance(asked, Iterable):
        raise InputError(f"features: found {asked!r}; expected names")
    chosen = known if asked is None else [choose("features", name, known) for name in asked]
    if not chosen:
        raise InputError("features: an empty list; expected at least one of " + ", ".join(known))
    if len(set(chosen)) < len(chosen):
        raise InputError(f"features: some are named twice in {chosen}")
    return list(chosen)


def warn(message: str) -> None:
    """Warn the user, at the line outside this package that led here."""
    package = str(Path(__file__).parent)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
