"""Where the weights of a checkpoint, (model, seed, step), are: a hub name or folder, a revision."""

import re
from collections.abc import Iterable, Mapping
from itertools import product
from os import fspath
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from mlem_xr.schema import (
    CHECKPOINT,
    FINAL_STEP,
    InputError,
    check_location,
    check_seed,
    check_step,
    check_text,
    choose,
)


class Checkpoint(NamedTuple):
    """One set of weights: the labels it is stored under, and where it is.

    `step` is -1 where the training step is not stated. `source` is a name on the Hugging Face hub
    or a local folder; `revision` is a branch, tag or commit on the hub, None being the main branch.
    """

    model: str
    seed: int
    step: int
    source: str
    revision: str | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """Dimension to label, as the store wants them."""
        return {dim: getattr(self, dim) for dim in CHECKPOINT}

    def __str__(self) -> str:
        return f"{self.model} (seed {self.seed}, step {self.step})"


class Series(NamedTuple):
    """Published checkpoints of one training recipe: every seed at every step.

    `name` is a pattern of the model names it answers to. `source` and `revision` are templates with
    the `name` asked for, `seed`, `step` and `thousands` of steps.
    """

    name: str
    seeds: range
    steps: tuple[int, ...]
    source: str
    revision: str | None = None


_MULTIBERTS = (*range(0, 200_000, 20_000), *range(200_000, 2_000_001, 100_000))
_PYTHIA = (0, *(2**power for power in range(10)), *range(1000, 143_001, 1000))
_PYTHIA_NAME = r"pythia-(14m|31m|70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(-deduped|-seed[1-9])?"

# The cards of google/multiberts-seed_0, EleutherAI/pythia-160m and EleutherAI/pythia-160m-seed1 on
# the hub say which exist. The original run of a Pythia, here seed 0, has no seed in its name.
SERIES = (
    Series(
        "multiberts",
        range(5),
        _MULTIBERTS[:-1],
        "google/multiberts-seed_{seed}-step_{thousands}k",
    ),
    Series("multiberts", range(25), _MULTIBERTS[-1:], "google/multiberts-seed_{seed}"),
    Series(_PYTHIA_NAME, range(1), _PYTHIA, "EleutherAI/{name}", "step{step}"),
    Series(
        "pythia-(14m|31m|70m|160m|410m)",
        range(1, 10),
        _PYTHIA,
        "EleutherAI/{name}-seed{seed}",
        "step{step}",
    ),
    Series(
        "pythia-160m-(data|weight)-seed",
        range(1, 4),
        _PYTHIA,
        "EleutherAI/{name}{seed}",
        "step{step}",
    ),
)
"""Published series of checkpoints; the last step of a name is its final one."""


_STEPPED = r"(?:checkpoint|ckpt|step)[-_]?(\d+)"
"""Folders that training programs name by the step."""

_SHARED = {
    *("best", "final", "last", "checkpoint", "checkpoint-best", "checkpoint-last", "encoder", "hf"),
    *("model", "output", "outputs", "pretrained", "pytorch_model", "weights"),
}
"""Names of folders that say nothing of the network in them."""


def resolve(
    model: str | Path,
    seed: int = 0,
    step: int | None = None,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Find where the weights of a checkpoint are.

    With a `source`, a hub name or folder, `model` is any label. Without one, `model` is a local
    folder that holds a network, which is stored under its last part, or the last two where that is
    a name like "model" ("bert/model"), or the one before and the step where it names a step
    ("bert/checkpoint-100" is step 100 of "bert"); or a published series
    (`"multiberts"`, `"pythia-160m"` and so on; seed 0 of a PolyPythia is the original run); or else
    a name on the hub. `{model}`, `{seed}` and `{step}` are filled in, in `source` and `revision`.

    Step None or -1 is the final one: of a published series it is stored as its number of steps
    (MultiBERTs: 2,000,000; Pythia: 143,000), otherwise as -1.
    """
    expected = "a name on the Hugging Face hub or a folder"
    check_location("model", model, expected)
    model = fspath(model)
    if source is not None:
        check_location("source", source, expected)
        source = fspath(source)
    if revision is not None:
        check_text("revision", revision)
    seed = check_seed("seed", seed)
    step = check_step("step", FINAL_STEP if step is None else step)
    if source is None:
        checkpoint = _locate(model, seed, step)
    else:
        checkpoint = Checkpoint(model, seed, step, source)
        checkpoint = checkpoint._replace(source=_fill("source", source, checkpoint))
    if revision is not None:
        checkpoint = checkpoint._replace(revision=_fill("revision", revision, checkpoint))
    checkpoint = checkpoint._replace(source=_expand(checkpoint.source))
    if checkpoint.revision is not None and Path(checkpoint.source).is_dir():
        raise InputError(
            f"revision: found {revision!r} for {checkpoint.source!r}; "
            "expected none, as a folder has no revisions"
        )
    return checkpoint


def resolve_all(
    model: str | Path,
    seeds: Iterable[int],
    steps: Iterable[int | None],
    *,
    source: str | Path | None = None,
    revision: str | Mapping[int, str] | None = None,
) -> list[Checkpoint]:
    """Find where the weights of every seed at every step are, each checkpoint once, seed by seed.

    `revision` may be a mapping of steps to names, all of which are meant where the only step is
    None. Two checkpoints that would have the same weights are refused.
    """
    names = _names_of_steps(revision) if isinstance(revision, Mapping) else None
    same = None if isinstance(revision, Mapping) else revision
    steps = list(steps)
    if names is not None and steps == [None]:
        steps = list(names)
    found: dict[tuple[str, str | None], Checkpoint] = {}
    for seed, step in product(seeds, steps):
        at = FINAL_STEP if step is None else step
        name = same if names is None else names[choose("step: of revision", at, names)]
        checkpoint = resolve(model, seed, step, source=source, revision=name)
        first = found.setdefault((checkpoint.source, checkpoint.revision), checkpoint)
        if first != checkpoint:
            raise InputError(
                f"seed, step: {first} and {checkpoint} have the same weights, {first.source!r}; "
                "expected a source or revision with {seed} or {step}"
            )
    return list(found.values())


def _names_of_steps(revision: Mapping[Any, Any]) -> dict[int, str]:
    """Return the revision of each step; None stands for the final one."""
    if not revision:
        raise InputError("revision: an empty mapping; expected names by step")
    return {
        check_step("revision", FINAL_STEP if step is None else step): check_text("revision", name)
        for step, name in revision.items()
    }


def known_seeds(model: str) -> list[int]:
    """List the seeds of a published series in ascending order; not every seed has every step."""
    return sorted({seed for series in _published(model) for seed in series.seeds})


def known_steps(model: str, seed: int = 0) -> list[int]:
    """List the steps at which a published series kept its weights; the last is the final one."""
    choose(f"seed of {model!r}", seed, known_seeds(model))
    return [step for series in _published(model) if seed in series.seeds for step in series.steps]


def _locate(model: str, seed: int, step: int) -> Checkpoint:
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        name, named_step = _named_by(folder)
        if named_step is not None and step not in (FINAL_STEP, named_step):
            raise InputError(
                f"step: found {step} for {str(folder)!r}; expected {named_step} as its name says, "
                "or the folder as source="
            )
        step = step if named_step is None else named_step
        return Checkpoint(name, seed, step, str(folder))
    if not _matching(model):
        return Checkpoint(model, seed, step, model)
    step = _known_step(model, seed, step)
    found = next(s for s in _matching(model) if seed in s.seeds and step in s.steps)
    values = {"name": _short(model), "seed": seed, "step": step, "thousands": step // 1000}
    revision = found.revision and found.revision.format(**values)
    return Checkpoint(model, seed, step, found.source.format(**values), revision)


def _named_by(folder: Path) -> tuple[str, int | None]:
    """Return the label that a folder gives its network, and the training step, if it says one.

    A name that many networks share stands behind that of the folder above.
    """
    if folder.name in ("", ".."):
        # "." and ".." have no name of their own
        folder = folder.resolve()
    above = folder.absolute().parent
    if above.name == "snapshots" and above.parent.name.startswith("models--"):
        # The hub's cache: models--google--bert/snapshots/<commit>
        return above.parent.name.removeprefix("models--").replace("--", "/"), None
    stepped = re.fullmatch(_STEPPED, folder.name)
    if stepped:
        return _named_by(above)[0], int(stepped[1])
    if folder.name.lower() in _SHARED and above.name:
        return f"{_named_by(above)[0]}/{folder.name}", None
    return folder.name, None


def _known_step(model: str, seed: int, step: int) -> int:
    steps = known_steps(model, seed)
    if step == FINAL_STEP:
        return steps[-1]
    if step not in steps:
        nearest = sorted(sorted(steps, key=lambda known: abs(known - step))[:2])
        raise InputError(
            f"step of {model!r}: no weights of seed {seed} were kept at {step}; "
            f"nearest known: {' and '.join(map(str, nearest))}"
        )
    return step


def _short(model: str) -> str:
    return re.sub("^EleutherAI/", "", model)


def _matching(model: str) -> list[Series]:
    return [series for series in SERIES if re.fullmatch(series.name, _short(model))]


def _published(model: str) -> list[Series]:
    found = _matching(model)
    if not found:
        raise InputError(
            f"model: {model!r} is no published series of checkpoints; expected 'multiberts', "
            "or a Pythia such as 'pythia-160m'"
        )
    return found


def _fill(argument: str, template: str, checkpoint: Checkpoint) -> str:
    """Put the labels of a checkpoint into a template."""
    try:
        filled = template.format(**checkpoint.labels)
    except (LookupError, AttributeError, ValueError) as error:
        raise InputError(
            f"{argument}: cannot fill in {template!r} ({error}); "
            "known placeholders: {model}, {seed}, {step}"
        ) from error
    placeholders = {name for _, name, _, _ in Formatter().parse(template)}
    if "step" in placeholders and checkpoint.step == FINAL_STEP:
        raise InputError(f"step: none given, but {argument} {template!r} needs one")
    return filled


def _expand(source: str) -> str:
    """Name a folder in full, so that the store says which it was; leave a name on the hub alone."""
    folder = Path(source).expanduser()
    return str(folder.absolute()) if folder.is_dir() else source
