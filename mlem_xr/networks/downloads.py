"""Weights that were downloaded for a recording, and go when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlem_xr.networks.checkpoints import Checkpoint


@contextmanager
def weights_of(checkpoint: Checkpoint, *, keep: bool) -> Iterator[None]:
    """Remove what was downloaded of a checkpoint meanwhile, unless it is to be kept.

    What was on this machine before stays, as does a folder.
    """
    if keep or Path(checkpoint.source).is_dir():
        yield
        return
    before = _commits(checkpoint.source)
    try:
        yield
    finally:
        _remove(_commits(checkpoint.source) - before)


def _commits(source: str) -> set[str]:
    """Return the commits of a repository on the hub that are on this machine."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return set()
    return {
        revision.commit_hash
        for one in repositories
        if one.repo_id == source and one.repo_type == "model"
        for revision in one.revisions
    }


def _remove(commits: set[str]) -> None:
    from huggingface_hub import scan_cache_dir

    if commits:
        scan_cache_dir().delete_revisions(*commits).execute()
