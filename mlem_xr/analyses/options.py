"""Options of an analysis: frozen dataclasses that check themselves and know how to be asked for."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Real
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from mlem_xr.schema import (
    Check,
    InputError,
    check_integer,
    choose,
    plain_value,
    several,
    shown,
)


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    known: Iterable[str] = (),
    check: Check | None = None,
    each: type | None = None,
    flag: str | None = None,
) -> Any:
    """Describe a field of `Options`, which has to be given where there is no default.

    `known` are the words that it may be, if its type does not list them (`bool` or a `Literal`).
    `check` takes its name and value, and returns the value or raises `InputError`; without one, it
    has to be one of those. `each` is what it is a tuple of, if it takes
    several values. `flag` is its name on the command line, such as `alpha` for `alphas`.
    """
    about = {"help": help, "known": known, "check": check, "each": each, "flag": flag}
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of an analysis: every field is an `option`, checked when an instance is made."""

    def __post_init__(self) -> None:
        checked = {name: self.checked(name, getattr(self, name)) for name in self.names()}
        for name, value in self.settled(checked).items():
            object.__setattr__(self, name, value)

    @classmethod
    def settled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Give values to options that others decide about where they are not given (None)."""
        return values

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the options."""
        return [spec.name for spec in fields(cls)]

    @classmethod
    def spec(cls, name: str) -> Field:
        """Return the field of an option."""
        return next(spec for spec in fields(cls) if spec.name == name)

    @classmethod
    def kind(cls, name: str) -> Any:
        """Return the type of an option."""
        return cls._kinds()[name]

    @classmethod
    @cache
    def _kinds(cls) -> dict[str, Any]:
        return get_type_hints(cls)

    @classmethod
    def known(cls, name: str) -> list[Any]:
        """Return the values that an option may have, if they are a few that can be listed."""
        return list(cls.spec(name).metadata["known"]) or choices(cls.kind(name))

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return the value of an option in its one form; raise `InputError` if it cannot be."""
        check = cls.spec(name).metadata["check"]
        if check is not None:
            return check(name, value)
        return choose(name, value, cls.known(name))

    @classmethod
    def taken_from(cls, values: Mapping[str, Any]) -> Self:
        """Make the options out of the parameters of a public function, its `locals()`."""
        return cls(**{name: values[name] for name in cls.names()})

    @classmethod
    def defaults(cls, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the options that need not be given, as settings, beside those that are."""
        given = {s.name: s.default for s in fields(cls) if s.default is not MISSING}
        given |= {k: v for k, v in (settings or {}).items() if k in cls.names()}
        checked = {name: cls.checked(name, value) for name, value in given.items()}
        return {name: plain(value) for name, value in cls.settled(checked).items()}

    def settings(self) -> dict[str, Any]:
        """Return the options as JSON knows them."""
        return {name: plain(getattr(self, name)) for name in self.names()}


FUNCTION = "function "
"""What the name of a function follows in settings, which cannot say what it does."""


def plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{FUNCTION}{getattr(value, '__module__', '')}.{name}"
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def choices(kind: Any) -> list[Any]:
    """Return the values of a type that has few of them."""
    if kind is bool:
        return [False, True]
    if kind == bool | None:
        return [None, False, True]
    return list(get_args(kind))


def is_literal(kind: Any) -> bool:
    """Say whether a type lists its values."""
    return get_origin(kind) is Literal


def integer(*, at_least: int, below: int | None = None) -> Check:
    """Accept whole numbers of a range."""
    return lambda name, value: check_integer(name, value, at_least=at_least, below=below)


_LARGEST = sys.float_info.max

SEED = integer(at_least=0, below=2**32)
"""What NumPy's and scikit-learn's generators take."""


def number(expected: str, accepted: Callable[[float], bool]) -> Check:
    """Accept finite numbers of a range, which `expected` says in words."""

    def check(name: str, value: Any) -> float:
        found = plain_value(value)
        real = isinstance(found, Real) and not isinstance(found, bool)
        if not real or not abs(found) <= _LARGEST or not accepted(float(found)):
            raise InputError(f"{name}: found {shown(value)}; expected {expected}")
        return float(found)

    return check


def sorted_tuple(of: Check) -> Check:
    """Accept one value or several, each once, in ascending order."""
    return lambda name, value: tuple(sorted(several(name, value, of, ordered=False)))
