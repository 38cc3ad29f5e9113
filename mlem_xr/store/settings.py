"""Saved results by their settings: which one is meant, and what sets it apart in words."""

from collections.abc import Callable, Mapping
from typing import Any

from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.analyses.options import plain
from mlem_xr.schema import InputError, choose

_OF_THE_LAYERS = ("layers", "n_units")
"""Settings of results of concatenated layers."""


def named(analysis: Analysis, given: Mapping[str, Any]) -> dict[str, Any]:
    """Bring settings that a caller names into the form in which they are saved.

    Options; `features`, `layers` and `n_units`; and, under the name of the argument, a mapping of
    settings of the result that the analysis started from.
    """
    options, source = analysis.options.names(), analysis.source
    known = [*options, *_OF_THE_LAYERS]
    known += ["features"] if "codes" in analysis.inputs else []
    known += [source.argument] if source is not None else []
    found = {}
    for name, value in given.items():
        choose(f"settings of {analysis.name}", name, known)
        if name in options:
            found[name] = plain(analysis.options.checked(name, value))
        elif source is not None and name == source.argument:
            if not isinstance(value, Mapping):
                raise InputError(f"{name}: found {value!r}; expected a mapping of its settings")
            of = ANALYSES[value.get("analysis", source.analysis)]
            nested = {k: v for k, v in value.items() if k != "analysis"}
            found[name] = {"analysis": of.name} | named(of, nested)
        else:
            found[name] = [value] if isinstance(value, str) else plain(value)
            found[name] = list(found[name]) if name != "n_units" else value
    return found


def find(
    analysis: Analysis,
    saved: list[dict[str, Any]],
    given: Mapping[str, Any],
    *,
    now: Mapping[str, Any],
) -> int:
    """Find the one result that is meant, among the settings of those that are `saved`.

    Options that are not named have their defaults. What has no default (an option that has to be
    given, the result that the analysis started from, the layers that were concatenated) need not be
    named where that leaves no choice; where it does, the defaults and what the store holds `now`
    are meant. Raises `InputError` if there is no such result, or several are as good.
    """
    wanted = named(analysis, given)
    expected = analysis.options.defaults()
    if "codes" in analysis.inputs:
        expected["features"] = now["features"]
    expected |= wanted
    fitting = [i for i, settings in enumerate(saved) if _fits(expected, settings)]
    preferences: list[Callable[[dict[str, Any]], bool]] = [
        lambda settings: settings.get("layers") in (None, now["layers"]),
        lambda settings: settings.get("n_units") in (None, now["n_units"]),
        lambda settings: _default_source(analysis, settings, now),
    ]
    for preferred in preferences:
        better = [i for i in fitting if preferred(saved[i])]
        fitting = better or fitting
    if len(fitting) == 1:
        return fitting[0]
    asked = in_words(analysis, wanted) if wanted else "default settings"
    if not fitting:
        others = "; ".join(in_words(analysis, settings, now) for settings in saved) or "nothing"
        raise InputError(f"results: none saved for {analysis.name} with {asked}; saved: {others}")
    several = "; ".join(in_words(analysis, saved[i], now) for i in fitting)
    raise InputError(
        f"results: several saved for {analysis.name} with {asked}: {several}; "
        "name what sets them apart"
    )


def in_words(
    analysis: Analysis, settings: Mapping[str, Any], now: Mapping[str, Any] | None = None
) -> str:
    """Say what sets settings apart from the defaults.

    Examples
    --------
    >>> in_words(ANALYSES["mds"], {"distance": "cosine", "zscore": False})
    'distance cosine'
    """
    usual = analysis.options.defaults() | dict(now or {})
    words = []
    for name, value in settings.items():
        if name == "analysis" or (name in usual and usual[name] == value):
            continue
        if isinstance(value, Mapping):
            of = ANALYSES.get(str(value.get("analysis")))
            words.append(f"{name} ({in_words(of, value, now)})" if of else name)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"{name} {text}")
    return "; ".join(words) or "default settings"


def _fits(expected: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Say whether settings have all the expected values, nested ones too."""
    for name, value in expected.items():
        found = settings.get(name)
        if isinstance(value, Mapping):
            if not isinstance(found, Mapping) or not _fits(value, found):
                return False
        elif found != value:
            return False
    return True


def _default_source(
    analysis: Analysis, settings: Mapping[str, Any], now: Mapping[str, Any]
) -> bool:
    """Say whether the result that an analysis started from has default settings, all the way."""
    if analysis.source is None:
        return True
    nested = settings[analysis.source.argument]
    of = ANALYSES.get(str(nested.get("analysis")))
    if of is None:
        return False
    expected = of.options.defaults()
    if "codes" in of.inputs:
        expected["features"] = now["features"]
    return _fits(expected, nested) and _default_source(of, nested, now)
