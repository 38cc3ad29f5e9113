"""What the commands print."""

import sys
from typing import Any

import click
import pandas as pd

from mlem_xr.analyses.tables import to_dataframe
from mlem_xr.schema import InputError


def cut(text: str) -> str:
    """Leave out the middle of a text that is too long to read."""
    return text if len(text) < 500 else f"{text[:200]} ... {text[-200:]}"


def fail(error: Exception, code: int) -> None:
    """Say what is wrong in one line on standard error, and exit."""
    name = "" if isinstance(error, InputError | ImportError) else f"{type(error).__name__}: "
    sys.stderr.write(f"error: {name}{' '.join(str(error).split())}\n")
    sys.exit(code)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line on standard error."""
    sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")


def print_profile(profile: Any, *, leading: str = "importance", rows: int = 40) -> None:
    """Print, by representation, the features with the largest values, and R2 if there is one."""
    scores = [name for name in ("r2",) if name in profile and "subset" not in profile[name].dims]
    table = to_dataframe(profile[[leading, *scores]])
    labels = [name for name in table.columns if name not in ("feature", leading, *scores)]
    lines = []
    for key, part in table.groupby(labels, sort=False):
        best = part.nlargest(3, leading)
        named = zip(best["feature"], best[leading], strict=True)
        values = [f"{part[score].iloc[0]:.3f}" for score in scores]
        found = ", ".join(f"{feature} {value:.3g}" for feature, value in named)
        lines.append([*key, *values, found])
    print_table(pd.DataFrame(lines[:rows], columns=[*labels, *scores, f"largest {leading}"]))
    if len(lines) > rows:
        click.echo(f"... and {len(lines) - rows} more")


def print_table(table: pd.DataFrame) -> None:
    """Print a table without wrapping it."""
    rows = [list(map(str, table.columns)), *(map(str, row) for row in table.to_numpy())]
    columns = [list(column) for column in zip(*map(list, rows), strict=True)]
    width = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        texts = (text.ljust(size) for text, size in zip(row, width, strict=True))
        click.echo("  ".join(texts).rstrip())
