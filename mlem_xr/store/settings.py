"""Saved results by their settings: which one is meant, and what sets it apart in words."""

from collections.abc import Callable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.analyses.options import plain
from mlem_xr.running.progress import say
from mlem_xr.schema import InputError, among, check_integer, choose, several, shown
from mlem_xr.store.identity import VERSION

_OF_THE_LAYERS = ("layers", "n_units")
"""Settings of results of concatenated layers."""


def named(analysis: Analysis, given: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Bring settings that a caller names into the form in which they are saved.

    Options; `features`, `items`, `layers` and `n_units`; and, under the name of the argument, a
    mapping of settings of the result that the analysis started from. `now` is what the store holds.
    """
    options, source = analysis.options.names(), analysis.source
    known = [*options, *_OF_THE_LAYERS]
    known += ["features"] if "codes" in analysis.inputs else []
    known += ["items"] if "items" in analysis.inputs else []
    known += [source.argument] if source is not None else []
    found = {}
    for name, value in given.items():
        choose(f"settings of {analysis.name}", name, known)
        if name in options:
            found[name] = plain(analysis.options.checked(name, value))
        elif source is not None and name == source.argument:
            if not isinstance(value, dict):
                raise InputError(
                    f"{name}: found {shown(value)}; expected a mapping of its settings"
                )
            of = ANALYSES[
                choose(f"{name}: analysis", value.get("analysis", source.analysis), ANALYSES)
            ]
            nested = {k: v for k, v in value.items() if k != "analysis"}
            found[name] = {"analysis": of.name} | named(of, nested, now)
        elif name == "items":
            found[name] = _checked_items(value)
        elif name == "n_units":
            found[name] = check_integer(name, value, at_least=1)
        elif value is not None:
            found[name] = several(name, value, among(now[name]), twice=False)
    return found


def find(
    analysis: Analysis,
    saved: list[dict[str, Any]],
    given: Mapping[str, Any],
    *,
    now: Mapping[str, Any],
) -> int:
    """Find the one result that is meant, by the `settings` and `version` of those `saved`.

    Options that are not named have their defaults; where nothing is saved with those, they need not
    be named if that leaves no choice. Nor need what has no default (an option that has to be given,
    the result that the analysis started from, the layers that were concatenated); where there is a
    choice, what the store holds `now` is meant. Raises `InputError` if there is no such result, or
    several are as good.
    """
    wanted = named(analysis, given, now)
    expected = _expected(analysis, wanted, now)
    usual = _expected(analysis, wanted, now, with_source=True)
    settings = [_completed(analysis, about["settings"]) for about in saved]
    fitting = [i for i in range(len(saved)) if _fits(expected, settings[i])]
    with_defaults = bool(fitting)
    fitting = fitting or [i for i in range(len(saved)) if _fits(wanted, settings[i])]
    preferences: list[Callable[[int], bool]] = [
        lambda i: saved[i]["version"] == VERSION,
        lambda i: settings[i].get("layers") in (None, now["layers"]),
        lambda i: settings[i].get("n_units") in (None, now["n_units"]),
        lambda i: _fits(usual, settings[i]),
    ]
    for preferred in preferences:
        fitting = [i for i in fitting if preferred(i)] or fitting
    if len(fitting) == 1:
        if not with_defaults:
            words = in_words(analysis, settings[fitting[0]], now)
            say(f"{analysis.name}: opened what is saved, with {words}")
        return fitting[0]
    asked = in_words(analysis, wanted)
    if not with_defaults:
        others = "; ".join(in_words(analysis, each, now) for each in settings) or "nothing"
        raise InputError(f"results: none saved for {analysis.name} with {asked}; saved: {others}")
    several = "; ".join(in_words(analysis, settings[i], now) for i in fitting)
    raise InputError(
        f"results: several saved for {analysis.name} with {asked}: {several}; "
        "name what sets them apart"
    )


def _expected(
    analysis: Analysis,
    wanted: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    with_source: bool = False,
) -> dict[str, Any]:
    """Return the settings that are named, and the defaults of the others."""
    expected = analysis.options.defaults(wanted)
    if "codes" in analysis.inputs:
        expected["features"] = now["features"]
    expected |= wanted
    if "items" in analysis.inputs and "items" not in wanted:
        expected["items"] = _usual_items(analysis, expected, now)
    if with_source and analysis.source is not None:
        argument = analysis.source.argument
        nested: dict[str, Any] = {"analysis": analysis.source.analysis}
        nested |= wanted.get(argument, {})
        expected[argument] = _expected(ANALYSES[nested["analysis"]], nested, now, with_source=True)
    return expected


def in_words(
    analysis: Analysis, settings: Mapping[str, Any], now: Mapping[str, Any] | None = None
) -> str:
    """Say what sets settings apart from the defaults.

    Examples
    --------
    >>> in_words(ANALYSES["mds"], {"distance": "cosine", "zscore": False})
    'distance cosine'
    """
    words = []
    for name, value in settings.items():
        others = {k: v for k, v in settings.items() if k != name}
        usual = analysis.options.defaults(others) | dict(now or {})
        if name == "items":
            usual["items"] = _usual_items(analysis, settings, now or {})
        if name == "analysis" or (name in usual and usual[name] == value):
            continue
        if name == "items":
            pairs = ", ".join(f"{feature}={column}" for feature, column in value.items())
            words.append(f"items {pairs or 'none'}")
        elif isinstance(value, Mapping):
            of = ANALYSES.get(str(value.get("analysis")))
            words.append(f"{name} ({in_words(of, value, now)})" if of else name)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"{name} {text}")
    return "; ".join(words) or "default settings"


def _completed(analysis: Analysis, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of options that were not there yet when a result was saved."""
    return analysis.options.defaults(settings) | dict(settings)


def _fits(expected: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Say whether settings have all the expected values, nested ones too."""
    for name, value in expected.items():
        # Results that were saved before there were items have none.
        found = settings.get(name, {} if name == "items" else None)
        if isinstance(value, Mapping) and name != "items":
            if not isinstance(found, Mapping) or not _fits(value, found):
                return False
        elif found != value:
            return False
    return True


def _checked_items(value: Any) -> dict[str, str]:
    words = isinstance(value, Mapping) and all(isinstance(w, str) for w in chain(*value.items()))
    if not words:
        raise InputError(
            f"items: found {shown(value)}; expected a mapping of features to columns of items"
        )
    return dict(value)


def _usual_items(
    analysis: Analysis, settings: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, str]:
    """Return the items that an analysis with these settings takes where none are given."""
    if not analysis.with_items(SimpleNamespace(**settings)):
        return {}
    features = settings.get("features", [])
    return {k: v for k, v in now.get("items", {}).items() if k in features}
