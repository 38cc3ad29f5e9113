"""The command line: parses and calls the public functions, nothing else."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mlem_xr.analyses import ANALYSES
from mlem_xr.cli import analyses, completion, data, demo, plots
from mlem_xr.cli.output import cut, fail, show_warning
from mlem_xr.schema import InputError


class _App(click.Group):
    """A group of commands of which every mistake is one line on standard error.

    Exit code 2 is for a mistake of the caller's, 1 for other errors.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except InputError as error:
            fail(error, 2)
        except Exception as error:
            fail(error, 1)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _mistakes():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _mistakes():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            # What was reached has been said; 128 and the number of the signal, as in a shell.
            ctx.exit(130)


@contextmanager
def _mistakes() -> Iterator[None]:
    """Turn a mistake that click finds, for which it would show several lines, into one of ours."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = "" if error.ctx is None else f"; see {error.ctx.command_path} --help"
        raise InputError(cut(error.format_message()).rstrip(".") + command) from error


def app() -> click.Group:
    """Make the group of all commands, with one for every analysis that is known."""
    group = _App(
        help="Metric-learning encoding models: which features of sentences networks encode, "
        "and where.",
    )
    for command in (demo.demo, data.stimuli, data.record, data.info):
        group.add_command(command)
    for analysis in ANALYSES.values():
        group.add_command(analyses.command(analysis))
    group.add_command(plots.app())
    group.add_command(completion.completion)
    return click.version_option(package_name="mlem_xr")(group)


def main() -> None:
    """Run the command line; log lines and warnings go to standard error."""
    warnings.showwarning = show_warning
    handler = logging.StreamHandler()
    logger = logging.getLogger("mlem_xr")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    app()(prog_name="mlem-xr")
