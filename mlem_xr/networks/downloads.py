"""Weights that were downloaded for a recording, and go when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlem_xr.networks.checkpoints import Checkpoint

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo


@contextmanager
def weights_of(checkpoint: Checkpoint, *, keep: bool) -> Iterator[None]:
    """Remove what was downloaded of a checkpoint meanwhile, unless it is to be kept.

    What was on this machine before stays, as does a folder.
    """
    if keep or Path(checkpoint.source).is_dir():
        yield
        return
    before = _commits(checkpoint)
    try:
        yield
    finally:
        _remove(_commits(checkpoint) - before)


def _commits(checkpoint: Checkpoint) -> set[str]:
    """Return the commits on this machine that a checkpoint's revision stands for.

    Others of the repository may be what another process has just downloaded.
    """
    from huggingface_hub import CacheNotFound, constants

    try:
        repositories = _cache().repos
    except CacheNotFound:
        return set()
    name = checkpoint.revision or constants.DEFAULT_REVISION
    return {
        revision.commit_hash
        for one in repositories
        if one.repo_id == checkpoint.source and one.repo_type == "model"
        for revision in one.revisions
        if name in (revision.commit_hash, *revision.refs)
    }


def _remove(commits: set[str]) -> None:
    if commits:
        _cache().delete_revisions(*commits).execute()


def _cache() -> "HFCacheInfo":
    """Return what the hub's library has downloaded, where it downloads to now.

    Its own default is the folder of the moment at which this function was imported.
    """
    from huggingface_hub import constants, scan_cache_dir

    return scan_cache_dir(constants.HF_HUB_CACHE)
