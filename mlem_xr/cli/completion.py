"""The command that makes a shell complete commands, options and their values."""

import click
from click.shell_completion import get_completion_class

from mlem_xr.schema import choose

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", shell_complete=lambda *_: list(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a SHELL (bash, zsh or fish) complete commands, options and values.

    For bash and zsh, add this line to ~/.bashrc or ~/.zshrc (fish: pipe it to source):

    eval "$(mlem-xr completion bash)"
    """
    kind = get_completion_class(choose("shell", shell, _SHELLS))
    assert kind is not None
    root = context.find_root().command
    click.echo(kind(root, {}, "mlem-xr", "_MLEM_XR_COMPLETE").source())
