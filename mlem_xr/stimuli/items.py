"""Items: what sentences are made of, such as their nouns, and the features that belong to them."""

from collections.abc import Iterable, Mapping
from json import dumps
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.schema import (
    InputError,
    check_features,
    check_items,
    choose,
    columns_of,
    plain_value,
    shown,
    warn,
)
from mlem_xr.stimuli.table import Codes, declared_items, feature_values, to_codes
from mlem_xr.stimuli.targets import ENDS

_SHARED = 0.5
"""Share of the sentences that have an item in common with another one, in a column of which it says
something that a feature is constant within its items."""


def items_of_features(
    data: xr.Dataset, features: Iterable[str], items: Any = None, *, codes: Codes | None = None
) -> dict[str, str]:
    """Say which of the `features` belong to items, and to those of which column.

    `items` maps features to columns; None: what the features say themselves (attribute `item`).
    Features of the data that are not among `features` are left out. Raises `InputError` if it is no
    mapping, names what is unknown, or a feature is not constant within its items.
    """
    codes = Codes(data) if codes is None else codes
    chosen = list(features)
    belongs = declared_items(data, chosen) if items is None else _checked(data, items)
    found = {feature: belongs[feature] for feature in chosen if feature in belongs}
    for feature, column in found.items():
        _check_constant(data, codes, feature, column)
    return found


def item_codes(data: xr.Dataset, column: str) -> NDArray[np.int32]:
    """Enumerate the items of a column: int32 (sentence), -1 where undefined."""
    return to_codes(feature_values(data, column, argument="items"))[0]


def warn_of_undeclared_items(
    data: xr.Dataset,
    features: Iterable[str],
    items: Mapping[str, str],
    *,
    codes: Codes | None = None,
) -> None:
    """Warn of features that seem to belong to items and are not in `items`, with what to write.

    A feature seems to if it varies between the items of a column and never within one; of several
    such columns, the one with the fewest items counts.
    """
    codes = Codes(data) if codes is None else codes
    coarsest = sorted(check_items(data), key=lambda column: codes[column].max())
    # Places of a word are no items that words could belong to.
    columns = [c for c in coarsest if c not in ENDS and _is_shared(codes[c])]
    found: dict[str, str] = {}
    for feature in features:
        if feature not in items:
            seem = (c for c in columns if _seems_to_belong(codes[feature], codes[c]))
            column = next(seem, None)
            if column is not None:
                found[feature] = column
    if found:
        warn(f"items: {_in_words(found)} to them, write items={_written({**items, **found})}")


def first_varying(levels: NDArray, items: NDArray) -> tuple[int, int] | None:
    """Find an item within which a feature varies, the first there is.

    Takes the codes of the feature and of the items; an undefined level is one of its own, and
    sentences without an item do not count. Returns two sentences of the item that differ in the
    feature; None if there is no such item.
    """
    has = np.flatnonzero(items >= 0)
    item = items[has]
    first = np.zeros(item.max(initial=-1) + 1, np.int64)
    # Of several sentences of an item, what is written last stays.
    first[item[::-1]] = has[::-1]
    differs = levels[has] != levels[first[item]]
    if not differs.any():
        return None
    start = first[item[differs]].min()
    second = has[np.flatnonzero(differs & (first[item] == start))[0]]
    return int(start), int(second)


def _checked(data: xr.Dataset, items: Any) -> dict[str, str]:
    if not isinstance(items, Mapping):
        expected = 'a mapping of features to columns of items, such as {"subj_GEN": "subj_LEMMA"}'
        raise InputError(f"items: found {shown(items)}; expected {expected}")
    features, columns = check_features(data), columns_of(data)
    belongs = {}
    for feature, column in items.items():
        name = choose("items: feature", feature, features)
        others = [other for other in columns if other != name]
        # Items first: other columns over the sentences are rarely meant.
        known = dict.fromkeys([*check_items(data), *others])
        belongs[name] = choose(f"items: column of {name!r}", column, known)
    return belongs


def _check_constant(data: xr.Dataset, codes: Codes, feature: str, column: str) -> None:
    found = first_varying(codes[feature], codes[column])
    if found is not None:
        values = feature_values(data, feature)
        levels = " and ".join(_level(values[sentence]) for sentence in found)
        item = shown(plain_value(data[column].values[found[0]]))
        raise InputError(
            f"items: {feature!r} is not constant within the items of {column!r}: {item} has the "
            f"levels {levels}; expected one level for each item"
        )


def _level(value: Any) -> str:
    return "undefined" if pd.isna(value) else shown(plain_value(value))


def _is_shared(items: NDArray) -> bool:
    """Say whether enough sentences share their item with another one."""
    size = np.bincount(items[items >= 0])
    return bool(size[size > 1].sum() >= _SHARED * len(items))


def _seems_to_belong(levels: NDArray, items: NDArray) -> bool:
    distinct = np.unique(levels[items >= 0])
    return bool((distinct >= 0).sum() > 1) and first_varying(levels, items) is None


def _in_words(belongs: Mapping[str, str]) -> str:
    """Say what is constant within what; ends where "to them" goes on."""
    groups: dict[str, list[str]] = {}
    for feature, column in belongs.items():
        groups.setdefault(column, []).append(feature)
    said = [
        f"{', '.join(features)} {'is' if len(features) == 1 else 'are'} constant within the items "
        f"of {column!r}"
        for column, features in groups.items()
    ]
    return f"{'; '.join(said)}; if {'it belongs' if len(belongs) == 1 else 'they belong'}"


def _written(belongs: Mapping[str, str]) -> str:
    """Write a mapping as a person would."""
    return f"{{{', '.join(f'{dumps(k)}: {dumps(v)}' for k, v in belongs.items())}}}"
