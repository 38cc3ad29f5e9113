"""Parts of a network by the pattern of their names, and what they give in a forward pass."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from mlem_xr.schema import InputError, check_text, listed

LAYER = "{layer}"
"""Stands for the number of the layer in a pattern."""

_SHOWN = 6
"""Patterns that an error lists."""


def check_module(argument: str, pattern: Any) -> str:
    """Return the pattern of names of modules."""
    expected = "the name of a module, with {layer} in the place of its number"
    text = check_text(argument, pattern, expected)
    if text.count(LAYER) != 1:
        raise InputError(f"{argument}: found {text!r}; expected {expected}")
    return text


def find_modules(model: Any, pattern: str) -> dict[int, Any]:
    """Return the modules of a network whose names fit a pattern, by their number."""
    names = dict(model.named_modules())
    before, after = map(re.escape, pattern.split(LAYER))
    fits = {name: re.fullmatch(f"{before}([0-9]+){after}", name) for name in names}
    found = {int(match[1]): names[name] for name, match in fits.items() if match}
    if not found:
        known = dict.fromkeys(
            f"{name[: number.start()]}{LAYER}{name[number.end() :]}"
            for name in names
            for number in re.finditer(r"(?<![^.])[0-9]+(?![^.])", name)
        )
        similar = get_close_matches(pattern, known, _SHOWN, 0) or list(known)[:_SHOWN]
        raise InputError(
            f"module: {pattern!r} is no module of {type(model).__name__}; similar: "
            f"{listed(similar)}"
        )
    return dict(sorted(found.items()))


@contextmanager
def watched(modules: dict[int, Any]) -> Iterator[dict[int, list[Any]]]:
    """Collect what modules give each time that they are run, by their number."""
    found: dict[int, list[Any]] = {number: [] for number in modules}

    def watch(number: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            # Some give further things, such as the keys and values of attention.
            first = output[0] if isinstance(output, list | tuple) else output
            # What comes next may be added to it in place.
            found[number].append(first.clone() if hasattr(first, "clone") else first)

        return hook

    hooks = [module.register_forward_hook(watch(number)) for number, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
