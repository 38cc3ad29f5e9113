"""A line for every worker process that dies. Imports distributed, which takes a while."""

import logging
from typing import Any

from dask.utils import format_bytes
from distributed import SchedulerPlugin

MEMORY = "worker-restart-memory"
"""What Dask calls the report that a worker was ended because it held too much."""

logger = logging.getLogger(__name__)


class SayDeaths(SchedulerPlugin):
    """Say that a worker died with work in hand, in place of the many lines of Dask's own."""

    name = "mlem_xr-deaths"

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear of everything that happens to the workers."""
        if topic == MEMORY:
            self.held[msg["worker"]] = msg["rss"]
        elif topic == "all" and msg["action"] == "remove-worker" and msg["processing-tasks"]:
            held = self.held.get(msg["worker"])
            why = "" if held is None else f" because it held {format_bytes(held)} of memory"
            logger.warning("a worker process died%s; what it had in hand is computed again", why)
