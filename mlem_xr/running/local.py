"""A client with workers of its own. Imports distributed, which takes a while."""

import logging
from typing import Any

from dask.utils import format_bytes
from distributed import Client, LocalCluster, SchedulerPlugin

logger = logging.getLogger(__name__)


class LocalClient(Client):
    """A client that ends its cluster when it closes.

    Made after the cluster: a client that Dask makes before workers fail to start would stay what
    Dask runs on.
    """

    def __init__(self, **options: Any) -> None:
        cluster = LocalCluster(**options)
        cluster.scheduler.add_plugin(SayDeaths())
        super().__init__(cluster)

    def close(self, *arguments: Any, **options: Any) -> Any:
        """Close the client and its cluster."""
        super().close(*arguments, **options)
        self.cluster.close()


class SayDeaths(SchedulerPlugin):
    """Say that a worker died with work in hand, in place of the many lines of Dask's own."""

    name = "mlem_xr-deaths"

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear of everything that happens to the workers."""
        if topic == "worker-restart-memory":
            self.held[msg["worker"]] = msg["rss"]
        elif topic == "all" and msg["action"] == "remove-worker" and msg["processing-tasks"]:
            held = self.held.get(msg["worker"])
            why = "" if held is None else f" because it held {format_bytes(held)} of memory"
            logger.warning("a worker process died%s; what it had in hand is computed again", why)
