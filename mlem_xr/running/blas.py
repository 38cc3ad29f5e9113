"""How many threads BLAS may use."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

_counting = threading.Lock()
_limits: list[Any] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread: several lose more time waiting than they gain on small matrices.

    The limit belongs to the whole process: the first of the concurrent tasks sets it, the last one
    lifts it. Each does so from a thread that ends at once, because threadpoolctl obeys one living
    thread at a time.
    """
    from threadpoolctl import threadpool_limits

    with _counting:
        set_limit = partial(threadpool_limits, 1, user_api="blas")
        _limits.append(_limits[0] if _limits else _aside(set_limit))
    try:
        yield
    finally:
        with _counting:
            limit = _limits.pop()
            if not _limits:
                _aside(limit.restore_original_limits)


def _aside(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()
