"""What the pages hold that is written by no hand: the commands, and the gallery of notebooks."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mlem_xr.cli import app

DOCS = Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
COPIES = DOCS / "notebooks"
"""Where Sphinx reads the notebooks, as it reads nothing outside of its folder; not under git."""

ORDER = ("walkthrough", "own_sentences", "unit_scan", "training", "cluster")
BEST = {"walkthrough": 1, "own_sentences": 1}
"""Which image of a notebook stands for it, where that is not the first."""
PICTURES = {"cluster": "unit_distribution"}
"""Of notebooks without an image among their outputs."""


def commands() -> str:
    """Write the reference of the command line in Markdown."""
    return "\n".join(line for name, command in _leaves(app()) for line in _command(name, command))


def gallery() -> str:
    """Write the cards of the notebooks in Markdown."""
    found = notebooks()
    if not found:
        return "There are none yet."
    names = "\n".join(f"notebooks/{path.stem}" for path in found)
    cards = "\n".join(_card(path) for path in found)
    toctree = f":::{{toctree}}\n:hidden:\n\n{names}\n:::\n"
    return f"::::{{grid}} 1 2 2 2\n:gutter: 3\n\n{cards}::::\n\n{toctree}"


def notebooks() -> list[Path]:
    """Return the notebooks, in the order in which they should be read."""
    known = {name: position for position, name in enumerate(ORDER)}
    found = NOTEBOOKS.glob("*.ipynb")
    return sorted(found, key=lambda path: (known.get(path.stem, len(known)), path.stem))


def _leaves(group: click.Group, before: str = "mlem-xr") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield from (f"## {name}", "", command.help or "", "", "```text", usage, "```", "")
    yield from ("| option | |", "|---|---|")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            option, about = (part.replace("|", r"\|") for part in record)
            yield f"| `{option}` | {about} |"
    yield ""


def _card(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    title, about = _opening(next(cell for cell in cells if cell["cell_type"] == "markdown"))
    picture = f":img-top: {image}\n" if (image := _picture(path.stem, cells)) else ""
    link = f":link: notebooks/{path.stem}\n:link-type: doc\n"
    return f":::{{grid-item-card}} {title}\n{link}{picture}\n{about}\n:::\n"


def _opening(cell: dict[str, Any]) -> tuple[str, str]:
    """Return the title of a notebook and what its first paragraph says."""
    title, *rest = "".join(cell["source"]).strip().split("\n\n")
    return title.splitlines()[0].lstrip("# "), rest[0] if rest else ""


def _picture(name: str, cells: list[dict[str, Any]]) -> str | None:
    """Return one image among the outputs of a notebook, or one that stands for it."""
    outputs = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    images = [data["image/png"] for data in outputs if "image/png" in data]
    if images:
        path = DOCS / "generated" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64decode("".join(images[min(BEST.get(name, 0), len(images) - 1)])))
        return f"generated/{name}.png"
    return f"images/{PICTURES[name]}.png" if name in PICTURES else None


def prepare() -> None:
    """Put the notebooks where Sphinx reads them, and leave nothing of a former build.

    Notebooks that have not changed stay as they are, so that they are not read again.
    """
    shutil.rmtree(DOCS / "generated", ignore_errors=True)
    COPIES.mkdir(exist_ok=True)
    wanted = {path.name: path for path in notebooks()}
    for copy in COPIES.iterdir():
        if copy.name not in wanted:
            copy.unlink()
    for name, path in wanted.items():
        # From where the copies are, the pages are a folder nearer.
        text = path.read_text().replace("](../docs/", "](../")
        copy = COPIES / name
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)
