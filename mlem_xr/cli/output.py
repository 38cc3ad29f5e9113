"""What the commands print."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from mlem_xr.schema import InputError
from mlem_xr.tables import to_dataframe

# A file or a pipe has no width: nothing is wrapped there.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def fail(error: Exception, code: int) -> None:
    """Say what is wrong in one line on standard error, and exit."""
    name = "" if isinstance(error, InputError | ImportError) else f"{type(error).__name__}: "
    sys.stderr.write(f"error: {name}{' '.join(str(error).split())}\n")
    sys.exit(code)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line on standard error."""
    sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")


def print_profile(profile: Any, *, leading: str = "importance", rows: int = 40) -> None:
    """Print, for each cell, the features with the largest values, and R2 where there is one."""
    scores = [name for name in ("r2",) if name in profile]
    table = to_dataframe(profile[[leading, *scores]])
    labels = [name for name in table.columns if name not in ("feature", leading, *scores)]
    grouped = list(table.groupby(labels, sort=False))
    lines = Table(*labels, *scores, f"largest {leading}", box=None, pad_edge=False)
    for key, cell in grouped[:rows]:
        best = cell.nlargest(3, leading)
        named = zip(best["feature"], best[leading], strict=True)
        values = [f"{cell[score].iloc[0]:.3f}" for score in scores]
        found = ", ".join(f"{feature} {value:.3g}" for feature, value in named)
        lines.add_row(*map(str, key), *values, found)
    out.print(lines)
    if len(grouped) > rows:
        out.print(f"... and {len(grouped) - rows} more cells")


def print_table(table: Any) -> None:
    """Print a table without wrapping it."""
    lines = Table(*table.columns, box=None, pad_edge=False)
    for row in table.itertuples(index=False):
        lines.add_row(*map(str, row))
    out.print(lines)
