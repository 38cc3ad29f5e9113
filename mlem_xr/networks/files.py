"""The files of a network in a folder, and what tells them from others of the same name."""

import hashlib
from pathlib import Path

_PATTERNS = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "*.bin.index.json"),
    *("config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
    *("*vocab*", "merges.txt", "*.model", "*.py"),
)
"""Names of files with weights, configurations, tokens and code."""

_PIECE, _PIECES = 2**16, 32
"""Bytes of a piece of a file, and how many of them are read of a large one."""


def identities(folder: str | Path) -> dict[str, str]:
    """Return the size of each file of a network and a hash of pieces of it; none of a hub name.

    The pieces are spread evenly, so that other weights show, whatever their size, in no time.
    """
    files = {path for pattern in _PATTERNS for path in Path(folder).glob(pattern) if path.is_file()}
    return {path.name: _identity(path) for path in sorted(files)}


def _identity(path: Path) -> str:
    size = path.stat().st_size
    last = max(0, size - _PIECE)
    n_pieces = min(_PIECES, 1 + -(-last // _PIECE))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for i in range(n_pieces):
            file.seek(last * i // max(1, n_pieces - 1))
            digest.update(file.read(_PIECE))
    return f"{size} {digest.hexdigest()[:16]}"


def changed(folder: str | Path, before: dict[str, str]) -> list[str]:
    """List the files that are there no more, or are others than before."""
    now = identities(folder)
    return [name for name, identity in before.items() if now.get(name) != identity]
