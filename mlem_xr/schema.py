"""Names of dimensions and variables, what each must look like, and the checks that say so.

Everything here is plain data and plain checks; the rest of the package imports it and it imports
nothing of ours.
"""

import math
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from os import fspath
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

CHECKPOINT = ("model", "seed", "step")
"""Dimensions that name one set of weights."""

REPRESENTATION = (*CHECKPOINT, "pooling", "layer")
"""Dimensions that name one matrix of activations (sentence x unit)."""

ACTIVATION = (*REPRESENTATION, "sentence", "unit")
"""Dimensions of the activations, in the order in which they are stored."""

POOLINGS = ("first-token", "mean", "last-token")
"""How token activations become one vector per sentence."""

TARGET = "target"
"""Pooling over the tokens of a word that the stimuli name."""

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
    {*DIMENSIONS, "text", "activation", "recorded", "n_units", "fingerprint", "provenance"}
    | {"feature", "other_feature", "other_sentence", "pair", "fold", "subset", "pattern", "k"}
    | {"unit_layer", "unit_number", "axis", "bound", "position", "stress", "computed_from"}
    | {"results"}
)
"""Names that a feature may not have, because the library uses them."""


ITEM = "item"
"""What the attribute `role` of a column of items says."""

NUMERIC = "numeric"
"""What the attribute `kind` of a numeric feature says. The columns of a vector have the name of the
feature as their attribute `vector`."""

Check = Callable[[str, Any], Any]
"""Takes the name of an argument and what was given; returns the value in its one form, or raises
`InputError`."""

_MOST_VALUES = 100_000
"""Values that one argument may have; more are a mistake, such as an iterator without an end."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_CONTROL = re.compile("[\0-\x1f\x7f\ud800-\udfff]")

_LONGEST_NAME = 1000
"""Characters of a name."""

_LISTED = 50
"""Values that an error lists."""

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class InputError(ValueError):
    """A mistake of the caller's: names the argument, what was found and what is expected."""


class WorkerError(RuntimeError):
    """Worker processes died one after another on a piece of work: names it and the likely cause."""


class SchedulerError(RuntimeError):
    """The scheduler of a cluster was lost while it had work: names its address."""


def choose(argument: str, value: Any, known: Iterable[Any]) -> Any:
    """Return the one of the `known` ones that equals `value`; else raise an error that lists them.

    Values of different types are different: 1 is neither True nor 1.0.
    """
    known, given = list(known), plain_value(value)
    for one in known:
        if type(one) is type(given) and one == given:
            return one
    raise InputError(f"{argument}: unknown value {shown(given)}; known: {listed(known)}")


def among(known: Iterable[Any]) -> Check:
    """Accept what is known."""
    known = list(known)
    return lambda argument, value: choose(argument, value, known)


def plain_value(value: Any) -> Any:
    """Turn one value of NumPy or its kin into a plain Python object; leave anything else as it is.

    Dates stay as they are: as plain numbers they would pass for any number.
    """
    if getattr(value, "ndim", None) == 0 and np.asarray(value).dtype.kind not in "mM":
        return np.asarray(value).item()
    return value


def shown(value: Any) -> str:
    """Write a value for an error: in one short line, whatever it is."""
    return " ".join(_SHORT.repr(value).split())


def listed(values: Iterable[Any]) -> str:
    """List values for an error: `'a', 'b'`, or `none`."""
    texts = [shown(plain_value(value)) for value in values]
    more = [f"... ({len(texts) - _LISTED} more)"] if len(texts) > _LISTED else []
    return ", ".join(texts[:_LISTED] + more) or "none"


def first_line(error: BaseException) -> str:
    """Return the first line of an error, not too long to stand within another."""
    line = next(iter(str(error).strip().splitlines()), "")
    return textwrap.shorten(line, 200)


def check_integer(argument: str, value: Any, *, at_least: int = 0, below: int | None = None) -> int:
    """Return `value` as an int if it is an integer of at least `at_least` and below `below`."""
    number = plain_value(value)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or number < at_least or (below is not None and number >= below):
        limit = "" if below is None else f" and below {below}"
        raise InputError(
            f"{argument}: found {shown(value)}; expected an integer of at least {at_least}{limit}"
        )
    return number


def check_bool(argument: str, value: Any) -> bool:
    """Return `value` if it is True or False, and nothing that merely counts as one."""
    flag = plain_value(value)
    if not isinstance(flag, bool):
        raise InputError(f"{argument}: found {shown(value)}; expected True or False")
    return flag


def check_text(argument: str, value: Any, expected: str = "a name") -> str:
    """Return `value` if it is a name: a line of text, neither blank nor endless."""
    text = plain_value(value)
    if not isinstance(text, str) or not is_name(text):
        raise InputError(f"{argument}: found {shown(value)}; expected {expected}")
    return text


def check_layer(argument: str, value: Any) -> int:
    """Return the label of a layer; and so for seeds and steps."""
    return check_integer(argument, value, below=LABELS)


check_seed = check_layer


def check_step(argument: str, value: Any) -> int:
    """Return the label of a training step."""
    return check_integer(argument, value, at_least=FINAL_STEP, below=LABELS)


def is_name(text: str) -> bool:
    """Say whether a text is a name."""
    return bool(text.strip()) and _CONTROL.search(text) is None and len(text) <= _LONGEST_NAME


def is_storable(text: str) -> bool:
    """Say whether files can hold a text: it has neither a NUL nor half a character."""
    return _UNSTORABLE.search(text) is None


def check_location(argument: str, value: Any, expected: str) -> Path:
    """Return the path of a file or folder on this machine, which need not exist."""
    wrong = f"{argument}: found {shown(value)}"
    try:
        text = fspath(value)
    except Exception as error:
        raise InputError(f"{wrong}; expected {expected}") from error
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{wrong}; expected {expected}")
    if "://" in text:
        raise InputError(f"{wrong}, an address in an object store; expected {expected}")
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        # An OSError's own text repeats the path, however long.
        reason = getattr(error, "strerror", None) or error
        wrong += f", which cannot be found ({reason})"
        raise InputError(f"{wrong}; expected {expected}") from error
    return path


def values_of(argument: str, value: Any, *, ordered: bool = True) -> list[Any]:
    """Return one value or several as a list.

    A mapping is refused, of which only the names would count; what has no order, if it is
    `ordered`; and what has no end.
    """
    value = plain_value(value)
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Iterable):
        return [value]
    unordered = isinstance(value, Mapping) or (ordered and isinstance(value, set | frozenset))
    if unordered or getattr(value, "ndim", 1) != 1:
        raise InputError(f"{argument}: found {shown(value)}; expected one value or a list of them")
    try:
        values = list(islice(value, _MOST_VALUES + 1))
    except Exception as error:
        raise InputError(f"{argument}: cannot be read ({type(error).__name__}: {error})") from error
    if len(values) > _MOST_VALUES:
        raise InputError(f"{argument}: more than {_MOST_VALUES} values; expected fewer")
    return values


def several(
    argument: str,
    value: Any,
    check: Check,
    *,
    ordered: bool = True,
    empty: bool = False,
    twice: bool = True,
) -> list[Any]:
    """Return one value or several as a list, each checked and each once.

    `values_of` says what is refused; so are an `empty` list and values that are there `twice`,
    unless they are allowed.
    """
    values = values_of(argument, value, ordered=ordered)
    if not values and not empty:
        raise InputError(f"{argument}: an empty list; expected at least one value")
    checked = [check(argument, one) for one in values]
    distinct = list(dict.fromkeys(checked))
    if len(distinct) < len(checked) and not twice:
        raise InputError(f"{argument}: some are named twice in {listed(checked)}")
    return distinct


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


def check_activations(activations: Any) -> None:
    """Check that a Dataset holds activations and the features of their sentences.

    It needs a variable `activation` (..., sentence, unit) of a floating type. Its other dimensions
    name representations; besides those of a store there may be any others, such as subject or time.
    """
    check_dataset("activations", activations)
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
    for dim in variable.dims:
        _check_leading(variable, dim)
    if not np.issubdtype(variable.dtype, np.floating):
        raise InputError(
            f"activations: 'activation' has dtype {variable.dtype}; expected a floating type"
        )
    check_dimensions("activations", variable)
    check_features(activations)


def _check_leading(variable: xr.DataArray, dim: Any) -> None:
    """Check that a dimension beside those of a store is free to name representations."""
    found = f"activations: 'activation' has the dimension {shown(dim)}"
    if isinstance(variable.indexes.get(dim), pd.MultiIndex):
        raise InputError(
            f"{found}, which is stacked from several; expected one label each: unstack it"
        )
    if dim not in ACTIVATION and not is_leading(dim):
        raise InputError(f"{found}; expected a name that mlem_xr does not use itself: rename it")


def is_leading(dim: Any) -> bool:
    """Say whether a dimension names representations: one of a store's, or one of the caller's."""
    if dim in REPRESENTATION:
        return True
    free = isinstance(dim, str) and is_name(dim) and dim not in RESERVED
    # What is compared with x runs along other_x.
    return free and not dim.startswith("other_")


def leading_dims(names: Iterable[Any]) -> list[str]:
    """Return the names that may be dimensions of representations, those of a store last."""
    found = list(filter(is_leading, names))
    own = [name for name in found if name not in REPRESENTATION]
    return own + [name for name in REPRESENTATION if name in found]


def check_same_sentences(argument: str, distance: xr.DataArray) -> None:
    """Check that distances (sentence, other_sentence) are of sentences to the same ones."""
    own, other = distance["sentence"].values, distance["other_sentence"].values
    if len(own) != len(other) or ("other_sentence" in distance.coords and (own != other).any()):
        raise InputError(
            f"{argument}: {len(own)} sentences and {len(other)} other_sentence, with other labels; "
            "expected the same ones: select both"
        )


def check_dimensions(argument: str, variable: xr.DataArray) -> None:
    """Check that there is something along every dimension, and that labels tell it apart.

    Sentences may be there twice, as in a bootstrap.
    """
    for dim, size in variable.sizes.items():
        if math.isnan(size):
            raise InputError(
                f"{argument}: Dask does not know the size of {dim!r}; "
                "expected chunks of known size, as compute_chunk_sizes makes them"
            )
        if size == 0:
            raise InputError(f"{argument}: an empty selection, with no {dim}; expected some")
        labels = pd.Index(variable[dim].values)
        if dim != "sentence" and labels.has_duplicates:
            twice = shown(labels[labels.duplicated()][0])
            raise InputError(f"{argument}: {dim} {twice} is there twice; expected distinct labels")


def check_dataset(argument: str, value: Any) -> None:
    """Check that a value is a Dataset."""
    if not isinstance(value, xr.Dataset):
        found = type(value).__name__
        raise InputError(f"{argument}: expected an xarray Dataset, found {found}")


def check_features(data: xr.Dataset, features: Iterable[str] | None = None) -> list[str]:
    """Return the names of the features to use, in order: all that there are, by default."""
    known = features_of(data)
    if not known:
        raise InputError("features: none found; expected a coordinate over 'sentence' for each")
    if features is None:
        return known

    return several("features", features, among(known), twice=False)


def features_of(data: xr.Dataset) -> list[str]:
    """Return the names of the features that there are, in order.

    A feature is a column that is no item, several columns that are a vector, or a label of the
    variable `feature_distance`. The attribute `features`, if there, says which of the columns count
    and in which order.
    """
    items = check_items(data)
    columns = [name for name in columns_of(data) if name not in items]
    vectors = {column: data.variables[column].attrs.get("vector", column) for column in columns}
    found = list(dict.fromkeys(vectors.values()))
    given = several("features", data.attrs.get("features", found), check_text, empty=True)
    measured = given_features(data)
    known = [name for name in given if name in found and name not in measured]
    return known + [name for name in measured if name not in known]


def given_features(data: xr.Dataset) -> list[str]:
    """Return the names of the features whose distances are given.

    The variable `feature_distance` (feature, sentence, other_sentence), if there, has them.
    """
    if "feature_distance" not in data.data_vars:
        return []
    distance = data["feature_distance"]
    if set(distance.dims) != {"feature", "sentence", "other_sentence"}:
        raise InputError(
            f"feature_distance: found the dimensions {listed(distance.dims)}; expected 'feature', "
            "'sentence' and 'other_sentence'"
        )
    check_dimensions("feature_distance", distance)
    return several("feature_distance: feature", distance["feature"].values, check_text)


def check_items(data: xr.Dataset) -> list[str]:
    """Return the names of the columns that say what sentences are made of, in order.

    The attribute `items`, if there, says which columns are items; else those are whose own
    attribute `role` says so, as attributes of a Dataset get lost on the way.
    """
    check_dataset("stimuli", data)
    found = columns_of(data)
    marked = [name for name in found if data.variables[name].attrs.get("role") == ITEM]
    given = several("items", data.attrs.get("items", marked), check_text, empty=True)
    return [name for name in given if name in found]


def columns_of(data: xr.Dataset) -> list[str]:
    """Return the names of the coordinates over `sentence` alone that are not `RESERVED`."""
    # Variables, as it takes time to make a DataArray of each coordinate.
    return [
        str(name)
        for name in data.coords
        if data.variables[name].dims == ("sentence",) and name not in RESERVED
    ]


def columns_of_feature(data: xr.Dataset, feature: str) -> list[str]:
    """Return the names of a feature's columns: several if it is a vector."""
    variables = data.variables
    found = [c for c in columns_of(data) if variables[c].attrs.get("vector") == feature]
    return found or [feature]


def kind_of(data: xr.Dataset, feature: str) -> str:
    """Return the kind of a feature: `categorical`, `numeric`, `vector` or `given`."""
    if feature in given_features(data):
        return "given"
    attrs = data.variables[columns_of_feature(data, feature)[0]].attrs
    if "vector" in attrs:
        return "vector"
    return NUMERIC if attrs.get("kind") == NUMERIC else "categorical"


def warn(message: str) -> None:
    """Warn the user, at the line outside this package that led here."""
    package = str(Path(__file__).parent)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
