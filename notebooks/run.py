"""Run the notebooks: python notebooks/run.py [--check] [NAME ...].

Every notebook runs in an empty copy of the folders `notebooks` and `stores`, from top to bottom,
and fails on an error or on anything on standard error, such as a warning. Without --check its
outputs are written into the notebook, less what would differ the next time.
"""

import argparse
import base64
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

FOLDER = Path(__file__).resolve().parent
SECONDS = 600
"""After which a cell is given up."""

WIDGET = "application/vnd.jupyter.widget-view+json"
"""A progress bar: there while a notebook runs, and nothing but a reference afterwards."""

COLORS = 256
"""Of a picture: enough for lines, text and a scale of colors, in less than half of the bytes."""


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as walkthrough")
    parser.add_argument("--check", action="store_true", help="leave the notebooks as they are")
    options = parser.parse_args()
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no notebook {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    faults = [fault for name in options.names or known for fault in run(known[name], options.check)]
    sys.exit("\n".join(faults) or None)


def run(path: Path, check: bool) -> list[str]:
    """Run a notebook, and write it unless it is only checked; return what went wrong."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("notebooks", "stores"):
            (Path(scratch) / folder).mkdir()
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": Path(scratch) / "notebooks"}},
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
        )
        try:
            client.execute()
        except CellExecutionError as error:
            return [f"{path.name}: {error.ename}: {error.evalue}\n{error.traceback}"]
    clean(notebook)
    found = faults(notebook)
    if not check and not found:
        nbformat.write(notebook, path)
    seconds = time.perf_counter() - start
    size = len(nbformat.writes(notebook)) / 1000
    print(f"{path.name}: {seconds:.0f} s, {size:.0f} kB", flush=True)
    return [f"{path.name}: {fault}" for fault in found]


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove what is only there while a notebook runs, and what says where it ran."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _stays(output)]
            for data in (output.get("data", {}) for output in cell.outputs):
                if "image/png" in data:
                    data["image/png"] = _smaller(data["image/png"])


def _stays(output: nbformat.NotebookNode) -> bool:
    return "data" not in output or (bool(output.data) and WIDGET not in output.data)


def _smaller(png: str) -> str:
    picture = Image.open(BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLORS)
    data = BytesIO()
    picture.save(data, format="png", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Say which cells of a notebook that has run end in an error or write to standard error."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"cell {cell.id}: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {cell.id}: on standard error: {output.text}")
    return found


if __name__ == "__main__":
    main()
