"""The progress bar of all long work, and the lines beside it."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SECONDS_PER_LINE = 10
"""How often a bar says something in a file or a pipe, which keeps every line."""


class _Lines:
    """A stream on which a bar writes lines, where a terminal would show one that changes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            self.stream.write(line + "\n")

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def progress_bar(description: str, total: int, *, unit: str, shown: bool = True) -> Iterator[Any]:
    """Show a bar on standard error while the block runs.

    In a terminal one line changes; in a notebook the bar is a widget where ipywidgets is installed,
    and else text; a file or a pipe gets a line now and then.

    Parameters
    ----------
    description : str
        What is being done.
    total : int
        How much there is to do.
    unit : str
        What is counted, for the speed.
    shown : bool
        Whether to show anything at all.

    Yields
    ------
    tqdm.tqdm
        Call `update` with the amount done since the last call, `set_postfix_str` with what is at
        hand.

    Examples
    --------
    >>> with progress_bar("scan", 20, unit="units", shown=False) as bar:
    ...     _ = bar.update(20)
    """
    with warnings.catch_warnings():
        # Without ipywidgets a notebook gets text, which is no reason for a warning.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    large = total >= 10_000
    options: dict[str, Any] = {"unit": f" {unit}", "unit_scale": large, "disable": not shown}
    if not sys.stderr.isatty() and not in_notebook():
        options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS_PER_LINE, "ncols": 100}
    with tqdm(desc=description, total=total, **options) as bar:
        yield bar


@contextmanager
def resumable(
    description: str, reached: Callable[[], str], *, shown: bool = True
) -> Iterator[None]:
    """Say what there is by then, and how to go on, when the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{description}: interrupted; {reached()}; the same call goes on", shown=shown)
        raise


def say(line: str, *, shown: bool = True) -> None:
    """Write a line on standard error; in a notebook, where that is red, on standard output."""
    if shown:
        print(line, file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def in_notebook() -> bool:
    """Say whether this is the kernel of a notebook, which others than notebooks may import."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
