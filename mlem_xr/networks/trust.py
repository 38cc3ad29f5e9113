"""Code that a network brings along, which runs only where `trust_remote_code` says so."""

from typing import Any

from mlem_xr.schema import InputError, listed, warn


def names_of_code(auto_map: Any) -> list[str]:
    """List the files that `auto_map` of a configuration names, such as `modeling_mine.py`.

    Its values are `module.Class`, or `repository--module.Class` for code of another repository;
    those of tokenizers may be pairs, one of them None.
    """
    if isinstance(auto_map, dict):
        return sorted({name for value in auto_map.values() for name in names_of_code(value)})
    if isinstance(auto_map, list | tuple):
        return sorted({name for value in auto_map for name in names_of_code(value)})
    if not isinstance(auto_map, str):
        return []
    repository, _, reference = auto_map.rpartition("--")
    return [f"{repository}/".lstrip("/") + reference.rpartition(".")[0] + ".py"]


def check_own_code(source: str, names: list[str], *, known: bool) -> None:
    """Refuse a network or tokenizer that needs code of its own; warn where transformers has some.

    For networks without such code nothing happens.
    """
    if not names:
        return
    needs = f"model: {source!r} brings code of its own, {listed(names)}, which is not run"
    if not known:
        raise InputError(
            f"{needs}; expected trust_remote_code=True if you trust it, or what transformers knows"
        )
    warn(f"{needs}: transformers has code of the same name; see trust_remote_code")
