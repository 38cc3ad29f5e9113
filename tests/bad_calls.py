"""Calls of every public function with all that may stand for an argument, made systematically.

`KINDS` says of every argument what is right for it: values that stand for a plain one, whose
results must be the same. Every other value of `ANYTHING` is wrong, so that to accept one is a fault
of the library, and to refuse a right one is another.
"""

import decimal
import fractions
import inspect
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import dask.array as da
import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

import mlem_xr as mx
from helpers import write
from mlem_xr.schema import FINAL_STEP, REPRESENTATION
from mlem_xr.stimuli.table import from_dataframe

N_SENTENCES, N_UNITS = 16, 4


class Broken:
    """An object whose every method raises."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("broken")

    __repr__ = __str__ = __iter__ = __eq__ = __hash__ = __bool__ = __len__ = _fail
    __array__ = __index__ = __float__ = __fspath__ = __contains__ = _fail


ANYTHING: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "2**70": lambda: 2**70,
    "-2**70": lambda: -(2**70),
    "10**400": lambda: 10**400,
    "0.5": lambda: 0.5,
    "1.0": lambda: 1.0,
    "-1e300": lambda: -1e300,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1+2j": lambda: 1 + 2j,
    "Decimal": lambda: decimal.Decimal("0.5"),
    "empty text": lambda: "",
    "blank": lambda: " \t",
    "a word": lambda: "nonsense",
    "digits": lambda: "1",
    "no": lambda: "no",
    "text with NUL": lambda: "a\0b",
    "lone surrogate": lambda: "\ud800",
    "long text": lambda: "x" * 10_000,
    "bytes": lambda: b"mean",
    "empty list": lambda: [],
    "[None]": lambda: [None],
    "[nan]": lambda: [float("nan")],
    "[[1]]": lambda: [[1]],
    "[{}]": lambda: [{}],
    "[a word]": lambda: ["nonsense"],
    "[b'mean']": lambda: [b"mean"],
    "[True]": lambda: [True],
    "[0.5j]": lambda: [0.5j],
    "[object]": lambda: [object()],
    "empty dict": lambda: {},
    "dict": lambda: {"nonsense": 1},
    "set": lambda: {"nonsense"},
    "object": object,
    "class": lambda: int,
    "function": lambda: len,
    "Ellipsis": lambda: ...,
    "endless iterator": lambda: itertools.count(10**6),
    "iterator of words": lambda: iter(["nonsense", "words"]),
    "broken iterator": lambda: (1 / 0 for _ in range(2)),
    "broken object": Broken,
    "array": lambda: np.array([0.25, 2.5]),
    "array of no dimension": lambda: np.array(0.25j),
    "empty array": lambda: np.array([]),
    "matrix": lambda: np.eye(2),
    "array of objects": lambda: np.array([[1], None, "x"], dtype=object),
    "array of dates": lambda: np.array(["2020-01-01"], dtype="datetime64[ns]"),
    "date": lambda: np.datetime64("2020-01-01", "ns"),
    "pd.NA": lambda: pd.NA,
    "pd.NaT": lambda: pd.NaT,
    "Series": lambda: pd.Series([0.25, None]),
    "Series of NA": lambda: pd.Series([pd.NA, 1], dtype="Int64"),
    "DataFrame": lambda: pd.DataFrame({"a": [1, 2]}),
    "empty DataFrame": pd.DataFrame,
    "DataArray": lambda: xr.DataArray([0.25, 2.5]),
    "Dataset": xr.Dataset,
    "Dask array": lambda: da.ones(3) / 4,
}
"""What a caller may give by mistake."""


class World:
    """Small valid objects, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()

    def new(self, name: str = "") -> Path:
        """Return a new path, with this ending, in a folder of its own."""
        folder = self.folder / f"new{next(self._numbers)}"
        folder.mkdir()
        return folder / (name or "new")

    @cached_property
    def table(self) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        n = N_SENTENCES
        subjects = ["Mary", "the man", "the girls", "the dogs"]
        rest = ["sings.", "plays.", "sees the boy.", "barks in the garden."]
        return pd.DataFrame(
            {
                "sentence": [f"{subjects[i % 4]} {rest[i // 4]}" for i in range(n)],
                "number": np.where(np.arange(n) % 4 < 2, "sg", "pl"),
                "animate": rng.permutation(n) % 2 == 0,
                "frequency": rng.choice([2.5, 3.0, 4.5], n),
                "gender": rng.choice(np.array(["f", "m", None], dtype=object), n),
            }
        )

    @cached_property
    def stimuli(self) -> xr.Dataset:
        return from_dataframe(self.table, name="small")

    @cached_property
    def activations(self) -> xr.Dataset:
        """Two seeds and two layers; numbers that every floating type holds exactly."""
        rng = np.random.default_rng(1)
        values = rng.integers(-80, 80, size=(1, 2, 1, 1, 2, N_SENTENCES, N_UNITS)) / 16
        values[..., 0] += 4 * (self.table["number"].values == "sg")
        labels = {
            **{"model": ["toy"], "seed": [0, 1], "step": [-1], "pooling": ["mean"]},
            **{"layer": [1, 2], "unit": np.arange(N_UNITS)},
        }
        dims = (*REPRESENTATION, "sentence", "unit")
        data = xr.Dataset({"activation": (dims, values.astype(np.float32))}, labels)
        return data.assign_coords(self.stimuli.coords).assign_attrs(self.stimuli.attrs)

    @property
    def values(self) -> np.ndarray:
        return self.activations["activation"].values

    @property
    def layer(self) -> np.ndarray:
        return self.values[0, 0, 0, 0, 0]

    @cached_property
    def store(self) -> Path:
        path = self.folder / "small.zarr"
        mx.create_store(self.stimuli, path, pooling=["mean"])
        for seed in (0, 1):
            values = self.activations["activation"].sel(model="toy", seed=seed, step=-1, drop=True)
            write(path, values.drop_vars("unit"), seed=seed)
        mx.save_results(mx.multivariate_importance(mx.open_store(path)), progress=False)
        mx.save_results(self.stored_scan, progress=False)
        return path

    @cached_property
    def command_store(self) -> Path:
        """A store in which commands save results."""
        return shutil.copytree(self.store, self.folder / "commands.zarr")

    @cached_property
    def drawn_store(self) -> Path:
        """A store with all results that commands draw."""
        path = shutil.copytree(self.store, self.folder / "drawn.zarr")
        opened = mx.open_store(path)
        scan = mx.univariate_importance(opened)
        for result in (
            *(scan, mx.cluster_units(scan), mx.top_unit_importance(opened, scan, k=[1, 2])),
            *(mx.mds(opened), mx.decoding_baseline(opened), mx.decompose(opened)),
        ):
            mx.save_results(result, progress=False)
        return path

    @cached_property
    def table_file(self) -> Path:
        path = self.folder / "small.csv"
        mx.write_stimuli(self.stimuli, path)
        return path

    @cached_property
    def opened(self) -> xr.Dataset:
        return mx.open_store(self.store)

    @property
    def stored_scan(self) -> xr.Dataset:
        return mx.univariate_importance(mx.open_store(self.folder / "small.zarr"), zscore=True)

    @cached_property
    def stored(self) -> xr.Dataset:
        return mx.multivariate_importance(self.opened)

    @cached_property
    def network(self) -> Path:
        import torch

        from networks import save_bert

        # Threads would wait for each other longer than such a small network takes.
        torch.set_num_threads(1)
        return save_bert(self.folder / "network")

    @cached_property
    def profile(self) -> xr.Dataset:
        return mx.multivariate_importance(self.activations)

    @cached_property
    def other_profile(self) -> xr.Dataset:
        return mx.multivariate_importance(self.activations, distance="manhattan")

    @cached_property
    def decoded(self) -> xr.Dataset:
        return mx.decoding_baseline(self.activations).compute()

    @cached_property
    def parts(self) -> xr.Dataset:
        return mx.decompose(self.activations).isel(seed=[0]).compute()

    @cached_property
    def scan(self) -> xr.Dataset:
        return mx.univariate_importance(self.activations)

    @cached_property
    def best(self) -> xr.Dataset:
        found = mx.top_unit_importance(self.activations, self.scan, k=[1, 2])
        return found.isel(seed=[0]).compute()

    @cached_property
    def groups(self) -> xr.Dataset:
        return mx.cluster_units(self.part_of_scan)

    @cached_property
    def part_of_scan(self) -> xr.Dataset:
        """Return less to draw."""
        return self.scan.isel(seed=[0]).compute()

    @cached_property
    def tested(self) -> xr.Dataset:
        """Return p-values of single units."""
        return self.part_of_scan[["p_value"]].drop_attrs()

    @cached_property
    def plane(self) -> xr.Dataset:
        return mx.mds(self.activations)

    @cached_property
    def matrix(self) -> xr.DataArray:
        return mx.feature_correlation(self.stimuli)

    @cached_property
    def figure(self) -> hv.Curve:
        return hv.Curve([1, 2, 3])

    @cached_property
    def lexicon(self) -> Path:
        path = self.folder / "words.csv"
        words = ["girl,sg,f", "girls,pl,f", "woman,sg,f", "women,pl,f", "boy,sg,m", "boys,pl,m"]
        words += ["child,sg,n", "children,pl,n"]
        path.write_text("\n".join(["CLASS,WORD,NUM,GEN", *(f"N,{word}" for word in words)]))
        return path

    @cached_property
    def grammar(self) -> Path:
        path = self.folder / "small.fcfg"
        path.write_text(
            "%lexicon words.csv\n%column number = subj.NUM\n%column noun = subj.LEMMA\n"
            "S -> 'the' N[ROLE=subj] 'left' '.'\n"
        )
        assert self.lexicon.exists()
        return path


Make = Callable[[World], Any]


class Value(NamedTuple):
    """What is given for an argument."""

    label: str
    make: Make
    plain: Make | None
    """The value that it stands for; None: it is wrong."""
    undo: Callable[[Any], Any] = lambda result: result
    """Turns the result with the plain value into what is expected."""


Kind = list[Value]


def kind(
    *right: str, same: Mapping[str, tuple] | None = None, wrong: Mapping[str, Make] | None = None
) -> Kind:
    """Say what an argument may be.

    `right` are labels of `ANYTHING`, of which all others are wrong; `same` gives more values, each
    with the plain value that it stands for, and perhaps what that changes in the result; `wrong`
    gives more that are wrong.
    """
    assert set(right) <= ANYTHING.keys()
    values = {label: (lambda _, make=make: make()) for label, make in ANYTHING.items()}
    kind = [Value(label, make, make if label in right else None) for label, make in values.items()]
    kind += [Value(label, *given) for label, given in (same or {}).items()]
    return kind + [Value(label, make, None) for label, make in (wrong or {}).items()]


def constant(value: Any) -> Make:
    return lambda _: value


FLAG = kind(
    *("True", "False"),
    same={
        "np.True_": (constant(np.True_), constant(True)),
        "np.False_": (constant(np.False_), constant(False)),
    },
)


def choice(*known: Any) -> Kind:
    """One of some words, None, True and False."""
    words = {f"np.str_ {w}": (constant(np.str_(w)), constant(w)) for w in known if type(w) is str}
    more = {repr(w): (constant(w), constant(w)) for w in known if type(w) is str}
    labels = [label for label in ("None", "True", "False") if label in map(str, known)]
    flags = {"np.True_": (constant(np.True_), constant(True))} if True in known else {}
    return kind(*labels, same=words | more | flags)


def integer(*right: str, usual: int = 2) -> Kind:
    """A whole number; `right` are those of `ANYTHING` that are in its range."""
    kinds = (np.int64, np.int8, np.uint16, np.array)
    same = {k.__name__: (lambda _, k=k: k(usual), constant(usual)) for k in kinds}
    return kind(*right, same=same)


def number(*right: str, usual: float = 0.5) -> Kind:
    kinds = (np.float64, np.float32, np.float16, fractions.Fraction, np.array)
    same = {k.__name__: (lambda _, k=k: k(usual), constant(usual)) for k in kinds}
    return kind(*right, same=same)


def several(
    usual: list[Any],
    *right: str,
    unordered: bool = False,
    twice: bool = True,
    slow: bool = False,
) -> Kind:
    """One value or several, such as the `usual` ones.

    Whether their order says nothing, whether one may be named twice, and whether the call is slow,
    so that some ways to give them must do.
    """
    ways: dict[str, Callable[[list], Any]] = {
        "tuple": tuple,
        "iterator": iter,
        "keys": lambda values: dict.fromkeys(values).keys(),
        "array": np.array,
        "read-only array": lambda values: np.broadcast_to(np.array(values), len(values)),
        "Index": pd.Index,
        "Series": pd.Series,
        "DataArray": xr.DataArray,
        "Dask array": lambda values: da.from_array(np.array(values)),
        "NumPy scalars": lambda values: list(np.array(values)),
        "DataArrays": lambda values: list(xr.DataArray(values)),
    }
    if slow:
        ways = {label: ways[label] for label in ("iterator", "array", "DataArray")}
    plain, first = constant(usual), constant(usual[:1])
    same = {
        f"{label} of them": (lambda _, way=way: way(usual), plain) for label, way in ways.items()
    }
    same["one of them"] = (constant(usual[0]), first)
    same["array of no dimension of one"] = (constant(np.array(usual[0])), first)
    wrong = {
        "array of two dimensions": constant(np.array([usual])),
        "a mapping from them": constant(dict.fromkeys(usual, 1)),
        "and an object": constant([*usual, object()]),
    }
    repeated = constant([*usual, *usual])
    if twice:
        same["each twice"] = (repeated, plain)
    else:
        wrong["each twice"] = repeated
    if unordered:
        same["set of them"] = (constant(set(usual)), plain)
        same["in another order"] = (constant(usual[::-1]), plain)
    else:
        wrong["set of them"] = constant(set(usual))
    return kind(*right, same=same, wrong=wrong)


def optional(kind: Kind) -> Kind:
    """Accept None too."""
    return [value._replace(plain=value.make) if value.label == "None" else value for value in kind]


class Link(os.PathLike):
    """A path of a kind of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def dangling(world: World, ending: str = "") -> Path:
    link = world.new("link" + ending)
    link.symlink_to(link.with_name("nothing" + ending))
    return link


def folder_at(world: World, ending: str) -> Path:
    path = world.new("folder" + ending)
    path.mkdir()
    return path


def under_a_file(world: World, ending: str) -> Path:
    file = world.new("file")
    file.write_text("text")
    return file / f"x{ending}"


def path_to(ending: str, *right: str, existing: Make | None = None) -> Kind:
    """A file with an ending: one to be written, or one that exists."""
    make = existing or (lambda world: world.new("x" + ending))
    wrong: dict[str, Make] = {
        "no such file": lambda world: world.new("x" + ending),
        "dangling link": lambda world: dangling(world, ending),
        "empty file": lambda world: file_of(world, ending, b""),
        "binary file": lambda world: file_of(world, ending, bytes(range(256))),
    }
    if existing is None:
        wrong = {"another ending": lambda world: world.new("x.doc")}
    wrong |= {
        "a folder": lambda world: folder_at(world, ending),
        "under a file": lambda world: under_a_file(world, ending),
        "path of bytes": lambda world: bytes(make(world)),
        "path with NUL": constant(f"a\0b{ending}"),
        "long name": constant("x" * 300 + ending),
        "lone surrogate in a name": constant(f"\ud800{ending}"),
        "a list of paths": lambda world: [make(world)],
        "object store": constant(f"s3://bucket/x{ending}"),
        "no such user": constant(f"~nosuchuser/x{ending}"),
        "root": constant("/"),
        "here": constant("."),
    }
    ways = {"str": str, "np.str_": np.str_, "PathLike": Link}
    same = {label: (lambda w, way=way: way(make(w)), make) for label, way in ways.items()}
    return kind(*right, same=same, wrong=wrong)


def file_of(world: World, ending: str, content: bytes) -> Path:
    path = world.new("x" + ending)
    path.write_bytes(content)
    return path


def copy_of_store(world: World, damage: Callable[[Path], Any]) -> Path:
    path = world.new("copy.zarr")
    shutil.copytree(world.store, path)
    damage(path)
    return path


def _in_the_place_of(name: str, content: str | None) -> Callable[[Path], Any]:
    """Put a file in the place of a part of a store; None: nothing."""

    def damage(path: Path) -> None:
        part = path / name
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        if content is not None:
            part.write_text(content)

    return damage


OTHER_FORMAT = '{"zarr_format": 3, "node_type": "group", "attributes": {"conventions": "%s"}}'

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "zarr.json empty": _in_the_place_of("zarr.json", ""),
    "zarr.json not JSON": _in_the_place_of("zarr.json", "{nonsense"),
    "zarr.json a list": _in_the_place_of("zarr.json", "[1, 2]"),
    "zarr.json of nothing": _in_the_place_of("zarr.json", "{}"),
    "another format": _in_the_place_of("zarr.json", OTHER_FORMAT % "other-9"),
    "no attributes": _in_the_place_of("zarr.json", OTHER_FORMAT % "mlem_xr-store-1"),
    "zarr.json of an array": lambda path: shutil.copy(path / "seed" / "zarr.json", path),
    "labels lost": _in_the_place_of("seed", None),
    "labels a file": _in_the_place_of("layer", "text"),
    "labels without zarr.json": _in_the_place_of("layer/zarr.json", None),
    "labels with an empty zarr.json": _in_the_place_of("layer/zarr.json", ""),
    "activations lost": _in_the_place_of("activation", None),
    "activations a file": _in_the_place_of("activation", "text"),
    "fingerprints lost": _in_the_place_of("fingerprint", None),
    "provenance lost": _in_the_place_of("provenance", None),
    "sentences lost": _in_the_place_of("text", None),
    "a feature lost": _in_the_place_of("number", None),
}
"""What may have happened to a store; also to the first file of a label or of a feature."""


def store(*right: str, made: bool) -> Kind:
    """A store that exists, or one that may be made."""
    wrong: dict[str, Make] = {
        "a file": lambda world: file_of(world, ".zarr", b"text"),
        "path of bytes": lambda world: bytes(world.store),
        "an address of another kind": constant("ftp://bucket/x.zarr"),
        "an address without a bucket": constant("s3://"),
        "an address without a name": constant("s3://bucket/"),
        "an address that a path has changed": constant(Path("s3://bucket/x.zarr")),
        "no such user": constant("~nosuchuser/x.zarr"),
        "root": constant("/"),
        "long name": constant("x" * 300),
        "lone surrogate in a name": constant("\ud800.zarr"),
        "an opened store": lambda world: world.opened,
        "a list of paths": lambda world: [world.store],
        "under a file": lambda world: under_a_file(world, ".zarr"),
    }
    damaged = list(DAMAGE)
    if made:
        damaged = damaged[:5]
    else:
        wrong |= {
            "no such store": lambda world: world.new("x.zarr"),
            "an empty folder": lambda world: folder_at(world, ".zarr"),
            "a folder of other things": lambda world: world.folder,
            "dangling link": dangling,
        }
    for label in damaged:
        wrong[label] = lambda world, label=label: copy_of_store(world, DAMAGE[label])
    same = {
        "str": (lambda world: str(world.store), lambda world: world.store),
        "PathLike": (lambda world: Link(world.store), lambda world: world.store),
        "with a slash": (lambda world: f"{world.store}/", lambda world: world.store),
        "with dots": (lambda world: world.store / "x" / "..", lambda world: world.store),
        "link": (_link_to_store, lambda world: world.store),
    }
    return kind(*right, same=same, wrong=wrong)


def _link_to_store(world: World) -> Path:
    link = world.new("link.zarr")
    link.symlink_to(world.store)
    return link


Change = Callable[[Any], Any]


def changed(of: Make, wrong: Mapping[str, Change], same: Mapping[str, Any], *right: str) -> Kind:
    """Data, and what it may be changed to: `same` gives a change, or one and what it changes."""

    def make(change: Change) -> Make:
        return lambda world: change(of(world))

    pairs = {label: c if isinstance(c, tuple) else (c,) for label, c in same.items()}
    return kind(
        *right,
        same={label: (make(c), of, *undo) for label, (c, *undo) in pairs.items()},
        wrong={label: make(change) for label, change in wrong.items()},
    )


def with_activation(function: Callable[[np.ndarray], Any]) -> Change:
    """Change the values of the activations, and nothing else."""

    def change(data: xr.Dataset) -> xr.Dataset:
        values = data["activation"]
        return data.assign(activation=(values.dims, function(values.values.copy())))

    return change


def with_feature(values: Callable[[int], Any], name: str = "new") -> Change:
    """Add a feature, which counts."""

    def change(data: xr.Dataset) -> xr.Dataset:
        coordinate = xr.Variable("sentence", values(data.sizes["sentence"]))
        known = data.attrs["features"]
        return data.assign_coords({name: coordinate}).assign_attrs(features=[*known, name])

    return change


def with_attributes(**attrs: Any) -> Change:
    return lambda data: data.assign_attrs(attrs)


def without_attributes(*names: str) -> Change:
    def change(data: Any) -> Any:
        data = data.copy()
        data.attrs = {k: v for k, v in data.attrs.items() if k not in names}
        return data

    return change


def objects(*values: Any) -> Callable[[int], np.ndarray]:
    """Cycle through values that NumPy would turn into something else."""

    def make(n: int) -> np.ndarray:
        array = np.empty(n, dtype=object)
        for i in range(n):
            array[i] = values[i % len(values)]
        return array

    return make


def read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def strided(values: np.ndarray) -> np.ndarray:
    wide = np.repeat(values, 2, axis=-1)
    return wide[..., ::2]


def set_at(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[(0,) * (values.ndim - 2) + (3, 1)] = value
        return values

    return change


FEATURES_WRONG: dict[str, Change] = {
    "no features": lambda data: data.drop_vars(["number", "animate", "frequency", "gender"]),
    "no sentences": lambda data: data.isel(sentence=slice(0)),
    "complex feature": with_feature(lambda n: np.arange(n) * 1j),
    "feature of dates": with_feature(lambda n: np.arange(n).astype("datetime64[s]")),
    "feature of spans": with_feature(lambda n: np.arange(n).astype("timedelta64[s]")),
    "feature of lists": with_feature(objects([1], [2])),
    "feature of dicts": with_feature(objects({}, {"a": 1})),
    "feature of objects": with_feature(objects(object(), len)),
    "feature of broken objects": with_feature(objects(Broken(), 1)),
    "feature of bytes": with_feature(lambda n: np.array([b"a", b"b"] * (n // 2))),
    "feature of infinite numbers": with_feature(lambda n: np.array([np.inf, 1] * (n // 2))),
    "feature of lone surrogates": with_feature(objects("\ud800", 1)),
    "feature of huge integers": with_feature(objects(2**70, 1)),
    "features no list": with_attributes(features=5),
    "features None": with_attributes(features=None),
    "features of lists": with_attributes(features=[["number"]]),
    "features of numbers": with_attributes(features=[1, 2]),
    "no feature listed": with_attributes(features=[]),
    "items no list": with_attributes(items=5),
    "items None": with_attributes(items=None),
    "items of lists": with_attributes(items=[["number"]]),
    "all features are items": lambda d: with_attributes(items=list(d.attrs["features"]))(d),
}

FEATURES_SAME: dict[str, Any] = {
    "features a tuple": lambda data: data.assign_attrs(features=tuple(data.attrs["features"])),
    "items that are not there": lambda data: data.assign_attrs(items=["nonsense"]),
    "Dask features": lambda data: data.assign_coords(number=data["number"].chunk()),
    "feature of np.str_": lambda data: data.assign_coords(
        number=("sentence", [np.str_(v) for v in data["number"].values])
    ),
    "feature of Categorical": lambda data: data.assign_coords(
        number=("sentence", pd.Categorical(data["number"].values))
    ),
    "feature of string dtype": lambda data: data.assign_coords(
        number=("sentence", pd.array(data["number"].values, dtype="string"))
    ),
    "feature of int8": lambda data: data.assign_coords(
        animate=("sentence", data["animate"].values.astype(bool))
    ),
    "NaN for None": lambda data: data.assign_coords(
        gender=("sentence", pd.Series(data["gender"].values).fillna(np.nan).to_numpy(object))
    ),
    "NA for None": lambda data: data.assign_coords(
        gender=(
            "sentence",
            np.array([pd.NA if v is None else v for v in data["gender"].values], dtype=object),
        )
    ),
    "other coordinates": lambda data: data.assign_coords(
        constant=3, x=("x", [1, 2]), y=(("sentence", "x"), np.zeros((data.sizes["sentence"], 2)))
    ),
}

DIMS = (*REPRESENTATION, "sentence", "unit")


def unlabeled(dim: str) -> tuple[Change, Change]:
    """Take the labels of a dimension away, from what is given and from the result."""

    def drop(data: Any) -> Any:
        return data.drop_vars(dim, errors="ignore")

    return drop, drop


def transposed(*first: str) -> Change:
    return lambda data: data.transpose(*first, ..., missing_dims="ignore")


LEADING_WRONG: dict[str, Change] = {
    f"no {dim}": lambda data, dim=dim: data.isel({dim: slice(0)}) for dim in DIMS
}
LEADING_SAME: dict[str, Any] = {
    **{f"{dim} without labels": unlabeled(dim) for dim in REPRESENTATION},
    **{
        f"{dim} without an index": (lambda data, dim=dim: data.drop_indexes(dim))
        for dim in REPRESENTATION
    },
    "layers descending": (
        lambda data: data.sel(layer=[2, 1]),
        lambda result: result.sel(layer=[2, 1]) if "layer" in result.dims else result,
    ),
    "one layer": (
        lambda data: data.sel(layer=2),
        lambda result: result.sel(layer=2) if "layer" in result.dims else result,
    ),
    "one model, without its dimension": (
        lambda data: data.isel(model=0, step=0, pooling=0),
        lambda result: result.isel(model=0, step=0, pooling=0, missing_dims="ignore"),
    ),
}


def unknown_chunks(values: np.ndarray) -> da.Array:
    """Some units, of which Dask does not know how many they are."""
    return da.from_array(values)[..., da.ones(N_UNITS, chunks=2) > 0]


def without_sentences(found: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    return found.drop_vars(["sentence", "other_sentence"], errors="ignore")


ACTIVATIONS_WRONG: dict[str, Change] = {
    **FEATURES_WRONG,
    **LEADING_WRONG,
    "a DataArray": lambda data: data["activation"],
    "an array": lambda data: data["activation"].values,
    "a DataFrame": lambda data: data["activation"].to_dataframe(),
    "a mapping": dict,
    "renamed": lambda data: data.rename(activation="activations"),
    "a coordinate": lambda data: data.set_coords("activation"),
    "no dimension sentence": lambda data: data.isel(sentence=0),
    "no dimension unit": lambda data: data.isel(unit=0),
    "sentence renamed": lambda data: data.rename(sentence="item"),
    "a dimension of results": lambda data: data.expand_dims(fold=2),
    "a dimension without a name": lambda data: data.rename(seed=" "),
    "stacked": lambda data: data.stack(cell=["seed", "layer"]),
    "one sentence": lambda data: data.isel(sentence=[0]),
    "three sentences": lambda data: data.isel(sentence=slice(3)),
    "layers named twice": lambda data: data.isel(layer=[0, 0]),
    "seeds named twice": lambda data: data.assign_coords(seed=[1, 1]),
    "units named twice": lambda data: data.isel(unit=[0, 1, 1]),
    "integers": with_activation(lambda values: values.astype(int)),
    "booleans": with_activation(lambda values: values > 0),
    "complex": with_activation(lambda values: values.astype(complex)),
    "objects": with_activation(lambda values: values.astype(object)),
    "text": with_activation(lambda values: values.astype(str)),
    "dates": with_activation(lambda values: values.astype("datetime64[s]")),
    "a NaN": with_activation(set_at(np.nan)),
    "an infinite value": with_activation(set_at(np.inf)),
    "minus infinity": with_activation(set_at(-np.inf)),
    "chunks of unknown size": lambda data: data.drop_vars("unit").assign(
        activation=(data["activation"].dims, unknown_chunks(data["activation"].values))
    ),
}

ACTIVATIONS_SAME: dict[str, Any] = {
    **FEATURES_SAME,
    **LEADING_SAME,
    "one dimension more": (
        lambda data: data.expand_dims(head=2),
        lambda result: result.expand_dims(head=2),
    ),
    "Dask": lambda data: data.chunk({"layer": 1}),
    "Dask in pieces": lambda data: data.chunk({"sentence": 5, "unit": 3}),
    "Dask of one chunk": lambda data: data.chunk(),
    "sentence first": transposed("sentence"),
    "unit first": transposed("unit"),
    "sentence before layer": transposed("sentence", "layer", "unit"),
    "all dimensions reversed": lambda data: data.transpose(*reversed(DIMS)),
    "sentence first, Dask": lambda data: transposed("sentence")(data).chunk({"layer": 1}),
    "unit first, Dask": lambda data: transposed("unit")(data).chunk({"unit": 3}),
    "Fortran order": with_activation(np.asfortranarray),
    "read-only": with_activation(read_only),
    "strided": with_activation(strided),
    "backwards in memory": with_activation(lambda values: values[..., ::-1].copy()[..., ::-1]),
    "float64": with_activation(lambda values: values.astype(np.float64)),
    "float16": with_activation(lambda values: values.astype(np.float16)),
    "big-endian": with_activation(lambda values: values.astype(">f4")),
    "long double": with_activation(lambda values: values.astype(np.longdouble)),
    "a subclass": lambda data: Subclass(data.data_vars, data.coords, data.attrs),
    "another variable": lambda data: data.assign(other=("z", [1, 2])),
    "unit without labels": unlabeled("unit"),
    "sentence without labels": (lambda data: data.drop_vars("sentence"), without_sentences),
    "sentences of the same label": (
        lambda data: data.assign_coords(sentence=np.zeros(data.sizes["sentence"], int)),
        without_sentences,
    ),
    "no attributes": lambda data: without_attributes(*data.attrs)(data),
}


class Subclass(xr.Dataset):
    __slots__ = ()


STIMULI_WRONG: dict[str, Change] = {
    **FEATURES_WRONG,
    "a DataArray": lambda data: data["number"],
    "a mapping": dict,
    "coordinates of sentence renamed": lambda data: data.rename(sentence="item"),
}

STIMULI_SAME: dict[str, Any] = {
    **FEATURES_SAME,
    "sentence without labels": lambda data: data.drop_vars("sentence"),
    "other variables": lambda data: data.assign(other=("z", [1, 2])),
}

WHOLE_STIMULI_WRONG: dict[str, Change] = {
    **STIMULI_WRONG,
    "no text": lambda data: data.drop_vars("text"),
    "text of numbers": lambda data: data.assign_coords(text=("sentence", np.arange(N_SENTENCES))),
    "text of bytes": lambda data: data.assign_coords(
        text=("sentence", [v.encode() for v in data["text"].values])
    ),
    "text missing": lambda data: data.assign_coords(
        text=data["text"].where(data["text"] != data["text"][3], None)
    ),
    "text blank": lambda data: data.assign_coords(
        text=data["text"].where(data["text"] != data["text"][3], " ")
    ),
    "text of another dimension": lambda data: data.drop_vars("text").assign_coords(
        text=("word", ["a"])
    ),
    "three sentences": lambda data: data.isel(sentence=slice(3)),
    "one sentence": lambda data: data.isel(sentence=[0]),
    "feature with a slash": with_feature(lambda n: np.arange(n) % 2, name="a/b"),
    "feature of a name too long": with_feature(lambda n: np.arange(n) % 2, name="x" * 300),
    "feature without a name": with_feature(lambda n: np.arange(n) % 2, name=""),
    "feature named by a lone surrogate": with_feature(lambda n: np.arange(n) % 2, name="\ud800"),
    "name no text": with_attributes(stimuli=5),
}

TABLE_WRONG: dict[str, Change] = {
    "an empty table": lambda table: table.iloc[:0],
    "one row": lambda table: table.iloc[:1],
    "no column sentence": lambda table: table.drop(columns="sentence"),
    "no feature": lambda table: table[["sentence"]],
    "all columns twice": lambda table: pd.concat([table, table], axis=1),
    "a column of NaN": lambda table: table.assign(number=np.nan),
    "sentences of NaN": lambda table: table.assign(sentence=np.nan),
    "sentences of numbers": lambda table: table.assign(sentence=range(len(table))),
    "sentences of bytes": lambda table: table.assign(sentence=table["sentence"].str.encode("utf8")),
    "sentences of lists": lambda table: table.assign(sentence=table["sentence"].str.split()),
    "sentences of lone surrogates": lambda table: table.assign(
        sentence=pd.Series(["\ud800"] * len(table), dtype=object)
    ),
    "a column of lists": lambda table: table.assign(number=table["sentence"].str.split()),
    "a column of complex numbers": lambda table: table.assign(number=1j * np.arange(len(table))),
    "a column of dates": lambda table: table.assign(number=pd.Timestamp("2020-01-01")),
    "a column of spans": lambda table: table.assign(number=pd.Timedelta("1D")),
    "a column of periods": lambda table: table.assign(number=pd.Period("2020-01", "M")),
    "a column of intervals": lambda table: table.assign(number=pd.Interval(0, 1)),
    "a column of bytes": lambda table: table.assign(number=b"sg"),
    "a column of infinite numbers": lambda table: table.assign(frequency=np.inf),
    "a column of lone surrogates": lambda table: table.assign(
        number=pd.Series(["\ud800"] * len(table), dtype=object)
    ),
    "a column of huge integers": lambda table: table.assign(number=2**70),
    "columns of two levels": lambda table: table.set_axis(
        pd.MultiIndex.from_product([["a"], table.columns]), axis=1
    ),
    "a name that the library uses": lambda table: table.rename(columns={"number": "layer"}),
    "a name with a slash": lambda table: table.rename(columns={"number": "a/b"}),
    "a name with NUL": lambda table: table.rename(columns={"number": "a\0b"}),
    "a name too long": lambda table: table.rename(columns={"number": "x" * 300}),
    "a name of a lone surrogate": lambda table: table.set_axis(
        pd.Index(["sentence", "\ud800", "a", "b", 1], dtype=object), axis=1
    ),
    "a name of bytes": lambda table: table.rename(columns={"number": b"number"}),
    "a name None": lambda table: table.rename(columns={"number": None}),
    "a name NaN": lambda table: table.rename(columns={"number": np.nan}),
    "a Series": lambda table: table["number"],
    "an array": lambda table: table.to_numpy(),
    "a dict of columns": lambda table: table.to_dict("list"),
    "records": lambda table: table.to_dict("records"),
}

TABLE_SAME: dict[str, Any] = {
    "another index": lambda table: table.set_axis(range(100, 100 + len(table))),
    "index of one label": lambda table: table.set_axis([0] * len(table)),
    "sentences of string dtype": lambda table: table.astype({"sentence": "string"}),
    "Categorical": lambda table: table.astype({"number": "category"}),
    "extension types": lambda table: table.convert_dtypes(),
    "objects": lambda table: table.astype(object),
    "what becomes a table": lambda table: ToPandas(table),
    "NA for None": lambda table: table.assign(gender=table["gender"].fillna(pd.NA)),
    "NaN for None": lambda table: table.assign(gender=table["gender"].fillna(np.nan)),
}


class ToPandas:
    """As the tables of polars, Arrow and others."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.to_pandas = table.copy


def result(of: Make, variables: Mapping[str, tuple[str, ...]], others: Mapping[str, Make]) -> Kind:
    """A result with variables over some dimensions, which may have others too."""
    wrong: dict[str, Change] = {
        "a mapping": dict,
        "a DataFrame": lambda data: data[list(variables)].to_dataframe(),
    }
    same: dict[str, Any] = {
        "Dask": lambda data: data.chunk(),
        "without attributes": lambda data: without_attributes(*data.attrs)(data),
        "reversed dimensions": lambda data: data.transpose(*reversed(list(data.dims))),
        "another variable": lambda data: data.assign(other=("z", [1, 2])),
        "float32": lambda data: data.map(
            lambda v: v.astype(np.float32) if v.dtype.kind == "f" else v
        ),
    }
    for name, dims in variables.items():
        wrong[f"{name} renamed"] = lambda data, name=name: data.rename({name: "nonsense"})
        wrong[f"{name} lost"] = lambda data, name=name: data.drop_vars(name)
        for kind_of, convert in {
            "text": lambda values: values.astype(str),
            "objects": lambda values: values.astype(object),
            "complex": lambda values: values.astype(complex),
            "dates": lambda values: xr.zeros_like(values, dtype="datetime64[s]"),
        }.items():
            wrong[f"{name} of {kind_of}"] = lambda data, name=name, convert=convert: data.assign(
                {name: convert(data[name])}
            )
        for dim in dims:
            wrong[f"{name} without {dim}"] = lambda data, name=name, dim=dim: data.assign(
                {name: data[name].isel({dim: 0}, drop=True)}
            )
    made = changed(of, wrong, same)
    return made + [Value(label, make, None) for label, make in others.items()]


FUNCTIONS: dict[str, dict[str, Make]] = {
    "add_activations": {
        **{"store": lambda w: w.new("x.zarr"), "array": lambda w: w.layer},
        **{"model": constant("toy"), "stimuli": lambda w: w.stimuli},
    },
    "cluster_units": {"univariate": lambda w: w.scan, "max_clusters": constant(3)},
    "concatenate_layers": {"activations": lambda w: w.activations},
    "correct_p_values": {"result": lambda w: w.scan},
    "create_store": {"stimuli": lambda w: w.stimuli, "store": lambda w: w.new("x.zarr")},
    "decoding_baseline": {"activations": lambda w: w.activations, "features": constant("number")},
    "decompose": {"activations": lambda w: w.activations, "n_draws": constant(4)},
    "describe_stimuli": {"stimuli": lambda w: w.stimuli},
    "distances": {"activations": lambda w: w.activations},
    "feature_correlation": {"stimuli": lambda w: w.stimuli},
    "feature_distances": {"stimuli": lambda w: w.stimuli},
    "from_arrays": {
        **{"activations": lambda w: w.values, "features": lambda w: w.table},
        "dims": constant(list(DIMS)),
    },
    "generate_stimuli": {"source": lambda w: w.grammar},
    "list_results": {"store": lambda w: w.store},
    "list_stimuli": {},
    "local_client": {"n_workers": constant(1)},
    "mds": {"activations": lambda w: w.activations},
    "missing_checkpoints": {
        **{"store": lambda w: w.store, "model": constant(["toy"])},
        **{"seed": constant([0, 7]), "step": constant([FINAL_STEP])},
    },
    "multivariate_importance": {"activations": lambda w: w.activations},
    "open_results": {
        "store": lambda w: w.store,
        "analysis": constant("multivariate_importance"),
    },
    "open_store": {"store": lambda w: w.store},
    "randomization_test": {"activations": lambda w: w.activations, "n_draws": constant(9)},
    "read_stimuli": {"source": lambda w: w.table},
    "record": {
        **{"stimuli": lambda w: w.stimuli, "store": lambda w: w.new("x.zarr")},
        **{"model": lambda w: w.network, "progress": constant(False)},
    },
    "repair_store": {"store": lambda w: w.store, "progress": constant(False)},
    "save_results": {"result": lambda w: w.stored, "progress": constant(False)},
    "to_dataframe": {"result": lambda w: w.profile},
    "top_unit_importance": {
        **{"activations": lambda w: w.activations, "univariate": lambda w: w.scan},
        "k": constant([1, 2]),
    },
    "univariate_importance": {"activations": lambda w: w.activations},
    "verify_store": {"store": lambda w: w.store, "progress": constant(False)},
    "write_stimuli": {"stimuli": lambda w: w.stimuli, "path": lambda w: w.new("x.csv")},
    "write_table": {"table": lambda w: w.table, "path": lambda w: w.new("x.csv")},
    "plot.correlation": {"correlations": lambda w: w.matrix},
    "plot.decoding": {"result": lambda w: w.decoded},
    "plot.decomposition": {"result": lambda w: w.parts},
    "plot.clusters": {"univariate": lambda w: w.part_of_scan, "cluster": lambda w: w.groups},
    "plot.compare": {"first": lambda w: w.profile, "second": lambda w: w.other_profile},
    "plot.feature_importance": {"result": lambda w: w.profile},
    "plot.image": {"figure": lambda w: w.figure},
    "plot.mds": {"result": lambda w: w.plane},
    "plot.save": {"figure": lambda w: w.figure, "path": lambda w: w.new("x.png")},
    "plot.top_k": {"result": lambda w: w.best},
    "plot.unit_distribution": {"univariate": lambda w: w.part_of_scan},
    "plot.unit_map": {"univariate": lambda w: w.part_of_scan},
}
"""Every public function, with arguments that are right."""


def words(*labels: str) -> tuple[str, ...]:
    """Return the labels of `ANYTHING` that are a name, and those given."""
    return ("a word", "digits", "no", *labels)


NO_RESULT: dict[str, Make] = {
    "another result": lambda w: w.plane[["stress"]],
    "activations": lambda w: w.activations,
    "a correlation": lambda w: w.matrix,
    "stimuli": lambda w: w.stimuli,
}

DRAWN_WRONG: dict[str, Change] = {
    "an infinite value": lambda data: data.map(lambda v: v.where(v.layer != 1, np.inf)),
    "all NaN": lambda data: data.map(lambda v: xr.full_like(v, np.nan, dtype=float)),
    "no layer": lambda data: data.isel(layer=slice(0)),
    "no seed": lambda data: data.isel(seed=slice(0)),
    "layers named twice": lambda data: data.isel(layer=[0, 0]),
}


def drawn(of: Make, **variables: tuple[str, ...]) -> Kind:
    """A result that a figure shows."""
    made = result(of, variables, NO_RESULT)
    return made + without_anything(changed(of, DRAWN_WRONG, {}))


def without_anything(kind: Kind) -> Kind:
    return kind[len(ANYTHING) :]


def saved(change: Change) -> Make:
    return lambda w: change(w.stored)


RESULT_TO_SAVE = kind(
    same={
        "computed": (saved(lambda r: r.compute()), lambda w: w.stored),
        "reversed dimensions": (
            saved(lambda r: r.transpose(*reversed(list(r.dims)))),
            lambda w: w.stored,
        ),
        "one layer": (
            saved(lambda r: r.sel(layer=1)),
            lambda w: w.stored,
            lambda r: r.sel(layer=1),
        ),
        "layers descending": (
            saved(lambda r: r.sel(layer=[2, 1])),
            lambda w: w.stored,
            lambda r: r.sel(layer=[2, 1]),
        ),
    },
    wrong={
        **NO_RESULT,
        "another analysis by name": saved(with_attributes(analysis="mds")),
        "analysis unknown": saved(with_attributes(analysis="nonsense")),
        "analysis a list": saved(with_attributes(analysis=["mds"])),
        "settings None": saved(with_attributes(settings=None)),
        "settings empty": saved(with_attributes(settings={})),
        "settings of another": lambda w: w.stored.assign_attrs(settings=w.plane.attrs["settings"]),
        "settings of objects": saved(
            lambda r: r.assign_attrs(settings={**r.attrs["settings"], "distance": object()})
        ),
        "other stimuli": saved(with_attributes(stimuli_hash="0" * 32)),
        "stimuli a number": saved(with_attributes(stimuli_hash=5)),
        "store a number": saved(with_attributes(store=5)),
        **{
            f"without {name}": saved(without_attributes(name))
            for name in ("analysis", "settings", "stimuli_hash")
        },
        **{
            f"without {name}": saved(lambda r, name=name: r.drop_vars(name))
            for name in (*REPRESENTATION, "fingerprint", "importance")
        },
        "renamed": saved(lambda r: r.rename(importance="nonsense")),
        "one feature": saved(lambda r: r.isel(feature=[0])),
        "features without labels": saved(lambda r: r.drop_vars("feature")),
        "no layer": saved(lambda r: r.isel(layer=slice(0))),
        "no seed": saved(lambda r: r.isel(seed=slice(0))),
        "layers named twice": saved(lambda r: r.isel(layer=[0, 0])),
        "another layer": saved(lambda r: r.assign_coords(layer=[1, 9])),
        "another seed": saved(lambda r: r.assign_coords(seed=[0, 9])),
        "importance of text": saved(lambda r: r.assign(importance=r["importance"].astype(str))),
    },
)

FILES_WRONG: dict[str, bytes] = {
    "header alone": b"sentence,number\n",
    "one row": b"sentence,number\na b,1\n",
    "no column sentence": b"text,number\n" + b"a b,1\n" * 4,
    "no feature": b"sentence\n" + b"a b\n" * 4,
    "semicolons": b"sentence;number\n" + b"a b;1\n" * 4,
    "cells too many": b"sentence,number\n" + b"a,b,1\n" * 4,
    "a quote open": b'sentence,number\n"a b,1\n' + b"a b,1\n" * 4,
    "UTF-16": "sentence,number\na b,1\n".encode("utf-16"),
    "NUL": b"sentence,number\n" + b"a\0b,1\n" * 4,
    "a column named twice": b"sentence,number,number\n" + b"a b,1,2\n" * 4,
    "a column without a name": b"sentence,\n" + b"a b,1\n" * 4,
    "a column empty": b"sentence,number\n" + b"a b,\n" * 4,
    "infinite": b"sentence,number\n" + b"a b,inf\n" * 4,
    "million columns": b"sentence" + b"".join(b",f%d" % i for i in range(10**6)) + b"\n",
}

TABLE_FILE = path_to(".csv", existing=lambda w: w.table_file)
TABLE_FILE += [
    Value(f"file: {label}", lambda w, content=content: file_of(w, ".csv", content), None)
    for label, content in FILES_WRONG.items()
]
TABLE_FILE += [
    Value("a parquet file of CSV", lambda w: file_of(w, ".parquet", b"sentence,number\n"), None),
    Value("a gzip file of CSV", lambda w: file_of(w, ".csv.gz", b"sentence,number\n"), None),
]


def network() -> Kind:
    """A folder with a network, or a name on the hub, which nobody is asked for here."""
    wrong: dict[str, Make] = {
        "an empty folder": lambda w: folder_at(w, ""),
        "a file": lambda w: file_of(w, "", b"text"),
        "no such folder": lambda w: w.new("x"),
        "path of bytes": lambda w: bytes(w.network),
        "a list of paths": lambda w: [w.network],
        "object store": constant("s3://bucket/x"),
        "no such user": constant("~nosuchuser/x"),
        "root": constant("/"),
    }
    same = {
        "str": (lambda w: str(w.network), lambda w: w.network),
        "PathLike": (lambda w: Link(w.network), lambda w: w.network),
        "with a slash": (lambda w: f"{w.network}/", lambda w: w.network),
    }
    return kind(same=same, wrong=wrong)


NETWORK = network()
SEED = integer("0", "1")
FEATURES = several(["number", "animate"], "None", twice=False)
MODEL = several(["toy", "other"], *words("[a word]", "iterator of words"))
STIMULI = changed(lambda w: w.stimuli, STIMULI_WRONG, STIMULI_SAME)
WHOLE_STIMULI = changed(lambda w: w.stimuli, WHOLE_STIMULI_WRONG, STIMULI_SAME)
SCAN = result(
    lambda w: w.scan,
    {"importance": ("unit", "feature"), "p_value": ("unit", "feature"), "r2": ("unit",)},
    NO_RESULT,
)
P_VALUES = result(lambda w: w.scan, {"p_value": ("unit",)}, NO_RESULT)
P_VALUES += without_anything(
    changed(
        lambda w: w.scan,
        {
            "p-values above 1": lambda r: r.assign(p_value=r["p_value"] + 1),
            "p-values below 0": lambda r: r.assign(p_value=r["p_value"] - 1),
            "corrected already": lambda r: mx.correct_p_values(r),
        },
        {},
    )
)
SIGNIFICANT = optional(
    result(lambda w: w.tested, {"p_value": ("unit",)}, NO_RESULT)
    + without_anything(
        changed(
            lambda w: w.tested,
            {
                "p-values above 1": lambda r: r + 1,
                "p-values below 0": lambda r: r - 1,
                "infinite p-values": lambda r: r * np.inf,
                "NaN": lambda r: r * np.nan,
                "NaN of a unit": lambda r: r.where(r["unit"] > 0),
                "of fewer units": lambda r: r.isel(unit=[0, 1]),
                "of other units": lambda r: r.assign_coords(unit=r["unit"] + 1),
                "of one layer": lambda r: r.sel(layer=[1]),
                "of another layer, without its dimension": lambda r: r.sel(layer=1),
                "of another model": lambda r: r.assign_coords(model=["other"]),
                "of another seed": lambda r: r.assign_coords(seed=[5]),
                "of another feature": lambda r: r.isel(feature=[0]),
                "a dimension more": lambda r: r.expand_dims(k=[1, 2]),
            },
            {
                "units descending": lambda r: r.isel(unit=slice(None, None, -1)),
                "layers descending": lambda r: r.sel(layer=[2, 1]),
                "one model, without its dimension": lambda r: r.squeeze("model"),
            },
        )
    )
)
MADE_STORE = store(*words(), made=True)

NOT_CHECKED = {
    *(label for label in FEATURES_WRONG if label.startswith("feature of")),
    *("complex feature", "one sentence", "three sentences"),
    *("a NaN", "an infinite value", "minus infinity"),
    *("layer without labels", "layers descending"),
}
"""What `concatenate_layers` does not look at, or what changes the labels of its units."""

OTHER_LABELS = (
    "one dimension more",
    "layers descending",
    "one layer",
    "one model, without its dimension",
)
"""Changes that make activations others than those that a scan was made of."""

ARRAY = kind(
    same={
        label: (lambda w, way=way: way(w.values), lambda w: w.values)
        for label, way in {
            "list": lambda values: values.tolist(),
            "Dask": da.from_array,
            "read-only": read_only,
            "strided": strided,
            "masked": lambda values: np.ma.masked_array(values),
            "DataArray of its dimensions": lambda values: xr.DataArray(values, dims=DIMS),
            "float64": lambda values: values.astype(np.float64),
        }.items()
    },
    wrong={
        "complex": lambda w: w.values.astype(complex),
        "text": lambda w: w.values.astype(str),
        "objects": lambda w: w.values.astype(object),
        "dates": lambda w: w.values.astype("datetime64[s]"),
        "one sentence less": lambda w: w.values[..., 1:, :],
        "no unit": lambda w: w.values[..., :0],
        "one dimension less": lambda w: w.values[0],
        "DataArray of other dimensions": lambda w: xr.DataArray(w.values),
        "DataArray in another order": lambda w: w.activations["activation"].transpose(*DIMS[::-1]),
        "sentences in another order": lambda w: xr.DataArray(w.values, dims=DIMS).assign_coords(
            sentence=np.arange(N_SENTENCES)[::-1]
        ),
        "a Dataset of activations": lambda w: w.activations,
        "chunks of unknown size": lambda w: unknown_chunks(w.values),
    },
)

NAMES = kind(
    same={
        "tuple": (lambda w: tuple(DIMS), constant(list(DIMS))),
        "iterator": (lambda w: iter(DIMS), constant(list(DIMS))),
        "array": (lambda w: np.array(DIMS), constant(list(DIMS))),
        "Index": (lambda w: pd.Index(DIMS), constant(list(DIMS))),
        "mapping to nothing": (lambda w: dict.fromkeys(DIMS), constant(list(DIMS))),
        "mapping to numbers": (
            lambda w: dict.fromkeys(DIMS) | {"seed": range(2)},
            constant(list(DIMS)),
        ),
    },
    wrong={
        "set": constant(set(DIMS)),
        "one too few": constant(DIMS[1:]),
        "one too many": constant(("subject", *DIMS)),
        "one twice": constant(("layer", *DIMS[1:])),
        "no sentence": constant(tuple("subject" if d == "sentence" else d for d in DIMS)),
        "a column": constant(("number", *DIMS[1:])),
        "a dimension of results": constant(("fold", *DIMS[1:])),
        "a blank": constant((" ", *DIMS[1:])),
        "a number": constant((1, *DIMS[1:])),
        **{
            f"labels: {label}": lambda w, make=make: dict.fromkeys(DIMS) | {"seed": make()}
            for label, make in ANYTHING.items()
            if label not in ("None", "array", "DataArray", "iterator of words", "DataFrame")
        },
    },
)

NEW_STORES: dict[str, Make] = {
    "str": lambda w: str(w.new("x.zarr")),
    "PathLike": lambda w: Link(w.new("x.zarr")),
    "with a slash": lambda w: f"{w.new('x.zarr')}/",
    "with dots": lambda w: w.new("x.zarr") / "y" / "..",
    "link": dangling,
}

NEW_STORE = [
    value._replace(make=NEW_STORES[value.label], plain=lambda w: w.new("x.zarr"))
    if value.label in NEW_STORES
    else value
    for value in MADE_STORE
]

LAYER = kind(
    same={
        label: (lambda w, way=way: way(w.layer), lambda w: w.layer)
        for label, way in {
            "list": lambda values: values.tolist(),
            "Dask": da.from_array,
            "read-only": read_only,
            "float64": lambda values: values.astype(np.float64),
            "DataArray": lambda values: xr.DataArray(values, dims=("sentence", "unit")),
            "of a store": lambda values: xr.DataArray(values[None], dims=("layer", *DIMS[-2:])),
        }.items()
    },
    wrong={
        "complex": lambda w: w.layer.astype(complex),
        "infinite": lambda w: w.layer * np.inf,
        "NaN in part": lambda w: np.where(w.layer == w.layer[3, 1], np.nan, w.layer),
        "one sentence less": lambda w: w.layer[1:],
        "eight dimensions": lambda w: w.values[None],
        "DataArray of other dimensions": lambda w: xr.DataArray(w.layer),
        "a dimension more": lambda w: xr.DataArray(w.layer[None], dims=("time", *DIMS[-2:])),
        "sentences in another order": lambda w: xr.DataArray(
            w.layer, {"sentence": np.arange(N_SENTENCES)[::-1]}, DIMS[-2:]
        ),
    },
)

ROLES: dict[str, Kind] = {
    "numeric": several(["frequency"], "None", "empty list", "empty array", unordered=True),
    "vector": kind(
        *("None", "empty dict", "Dataset"),
        wrong={
            "a pattern alone": constant("frequency*"),
            "an unknown column": constant({"place": "frequency_*"}),
            "the name of a column": constant({"number": "frequency"}),
            "no columns": constant({"place": []}),
            "no text": constant({"place": 1}),
            "None": constant({"place": None}),
            "a number as name": constant({1: "frequency"}),
            "a column of words": constant({"place": "number"}),
            "lone surrogate": constant({"\ud800": "frequency"}),
        },
    ),
    "items": several(["number", "gender"], "None", "empty list", "empty array", unordered=True),
}
"""What columns of a table may be."""

KINDS: dict[str, Kind] = {
    "activations": changed(lambda w: w.activations, ACTIVATIONS_WRONG, ACTIVATIONS_SAME),
    "add_activations.array": LAYER,
    "add_activations.layer": kind("None", "0", "1"),
    "add_activations.model": kind("a word", "digits", "no", "[a word]"),
    "add_activations.pooling": kind("None", "a word", "digits", "no", "[a word]"),
    "add_activations.seed": kind("None", "0", "1"),
    "add_activations.source": kind("a word", "digits", "no"),
    "add_activations.step": kind("None", "0", "1", "-1", "[None]"),
    "add_activations.stimuli": WHOLE_STIMULI,
    "add_activations.store": NEW_STORE,
    "add_special_tokens": FLAG,
    "alpha": number("1", "1.0", "0.5"),
    "alphas": several(
        *([0.25, 4.0], "1", "0.5", "1.0", "2**70", "array", "DataArray", "Dask array"),
        unordered=True,
    ),
    "batch_size": integer("1", "2**70", "10**400"),
    "by": choice("r2", "mse", "number"),
    "conditional": choice(False, True, "exact"),
    "correction": choice("fdr", "holm-sidak", None),
    "detail": FLAG,
    "keep_weights": FLAG,
    "truncate": FLAG,
    "distance": choice("euclidean", "manhattan", "norm_diff"),
    "eps": number("0", "0.5", "1", "1.0", "2**70"),
    "features": FEATURES,
    "dims": NAMES,
    "folds": choice("pairs", "sentences"),
    "init": choice("random", "classical"),
    "k": several([2, 3], "1", unordered=True),
    "log": FLAG,
    "mae": FLAG,
    "max_clusters": integer("2**70", "10**400"),
    "max_iter": integer("1", usual=3),
    "method": choice("fdr", "holm-sidak", None),
    "min_max": optional(FLAG),
    "n_components": integer("1"),
    "items": kind(
        *("None", "empty dict", "Dataset"),
        wrong={
            "an unknown feature": constant({"tense": "number"}),
            "an unknown column": constant({"number": "noun"}),
            "another dimension": constant({"number": "unit"}),
            "no text": constant({"number": 1}),
            "None": constant({"number": None}),
            "itself": constant({"number": "number"}),
            "a feature of several levels": constant({"animate": "number"}),
            "lone surrogate": constant({"number": "\ud800"}),
        },
    ),
    "groups": kind(
        *("None", "empty dict", "empty list", "Dataset"),
        same={"a feature alone": (constant({"new": "number"}), constant({"new": ["number"]}))},
        wrong={
            "an unknown feature": constant({"new": ["tense"]}),
            "the name of a feature": constant({"number": ["gender"]}),
            "no features": constant({"new": []}),
            "a feature twice": constant({"new": ["number", "number"]}),
            "no text": constant({"new": 1}),
            "None as a feature": constant({"new": [None]}),
            "a number as name": constant({1: ["number"]}),
            "lone surrogate": constant({"\ud800": ["number"]}),
            "a list of names": constant(["number", "gender"]),
        },
    ),
    "n_draws": integer("1", usual=9),
    "n_init": integer("1"),
    "per": choice("layer", "unit"),
    "names": choice("mlem_xr", "original"),
    "overwrite": FLAG,
    "path": path_to(".csv"),
    "progress": FLAG,
    "random_state": SEED,
    "scale": choice("relative", "zscore", None),
    "seed": several([0, 1], "0", "1"),
    "show": choice("importance", "r2"),
    "step": several([0, 1], "0", "1", "-1"),
    "stimuli": STIMULI,
    "store": store(made=False),
    "target": choice("square", "none"),
    "top": integer("1", "2**70", "10**400"),
    "trust_remote_code": FLAG,
    "univariate": SCAN,
    "columns": integer("1", "2**70", "10**400"),
    "dpi": integer("None", usual=72),
    "errorbar": choice("auto", "ci", "se", "seeds", None)
    + without_anything(
        kind(
            same={
                "90 %": (constant(("ci", 90)), constant(("ci", 90.0))),
                "np.float32(90)": (constant(("ci", np.float32(90))), constant(("ci", 90.0))),
            },
            wrong={
                label: constant(value)
                for label, value in {
                    "a list": ["ci", 90],
                    "of no kind": (None, 90),
                    "of another kind": ("se", 90),
                    "three parts": ("ci", 90, 95),
                    "one part": ("ci",),
                    "no parts": (),
                    "100 %": ("ci", 100),
                    "0 %": ("ci", 0),
                    "NaN %": ("ci", float("nan")),
                    "10**400 %": ("ci", 10**400),
                    "True %": ("ci", True),
                    "a word of %": ("ci", "90"),
                    "an array of %": ("ci", np.array([90, 95])),
                }.items()
            },
        )
    ),
    "first": drawn(lambda w: w.profile, importance=()),
    "hierarchy": several(["number", "gender"], "None"),
    "palette": kind(
        *("None", "empty dict", "Dataset"),
        same={
            "tuple": (constant(("red", "#00ff00")), constant(["red", "#00ff00"])),
            "array": (constant(np.array(["red", "#00ff00"])), constant(["red", "#00ff00"])),
            "iterator": (lambda _: iter(["red", "#00ff00"]), constant(["red", "#00ff00"])),
            "name": (constant(np.str_("viridis")), constant("viridis")),
            "one color, of numbers": (constant([(1, 0, 0)]), constant(["red"])),
            "colors by name": (constant({"number": "red"}), constant({"number": "#ff0000"})),
        },
        wrong={
            "a color that is none": constant(["red", "nonsense"]),
            "a color that is None": constant({"number": None}),
            "a color of an array": constant([np.array([1.0, 0.0, 0.0])]),
            "a color beyond 1": constant([(1, 0, 2)]),
        },
    ),
    "rename": kind(
        *("None", "empty dict", "Dataset"),
        same={
            "NumPy strings": (constant({"x": np.str_("y")}), constant({"x": "y"})),
            "read-only": (constant(MappingProxyType({"x": "y"})), constant({"x": "y"})),
        },
        wrong={
            "two names the same": constant({"number": "x", "animate": "x"}),
            "the name of another": constant({"number": "animate"}),
            "no text": constant({"number": 1}),
            "None": constant({"number": None}),
            "lone surrogate in a name": constant({"number": "\ud800"}),
        },
    ),
    "second": drawn(lambda w: w.other_profile, importance=()),
    "units": choice("mse", "r2"),
    "width": number("None", usual=85)
    + without_anything(
        kind(
            same={
                "column": (constant("column"), constant("column")),
                "np.str_": (constant(np.str_("page")), constant("page")),
            },
            wrong={"too narrow": constant(29.9), "too wide": constant(2001)},
        )
    ),
    "x": choice("layer", "step"),
    "zscore": FLAG,
    "correct_p_values.result": P_VALUES,
    "create_store.pooling": several(["mean", "last-token"]),
    "create_store.stimuli": WHOLE_STIMULI,
    "create_store.store": MADE_STORE,
    "concatenate_layers.activations": [
        value._replace(plain=None) if value.label == "one layer" else value
        for value in changed(lambda w: w.activations, ACTIVATIONS_WRONG, ACTIVATIONS_SAME)
        if value.label not in NOT_CHECKED
    ],
    "decompose.method": choice("shapley", "sampled"),
    "decompose.n_draws": integer(usual=4),
    "decoding_baseline.features": several(["number", "animate"], "None", twice=False, slow=True),
    "generate_stimuli.lexicon": path_to(".csv", "None", existing=lambda w: w.lexicon),
    "generate_stimuli.n_sentences": integer("None", usual=5),
    "generate_stimuli.source": path_to(".fcfg", existing=lambda w: w.grammar),
    "generate_stimuli.words_per_class": kind(
        *("None", "1", "2**70", "10**400", "empty dict", "Dataset"),
        same={
            "a mapping": (constant({"N": 1}), constant(1)),
            "np.int64": (constant(np.int64(1)), constant(1)),
            "np.int64 in a mapping": (constant({"N": np.int64(1)}), constant(1)),
        },
        wrong={
            "no class": constant({"X": 1}),
            "none of a class": constant({"N": 0}),
            "True of a class": constant({"N": True}),
            "a half of a class": constant({"N": 0.5}),
            "None of a class": constant({"N": None}),
            "class no word": constant({5: 1}),
        },
    ),
    "local_client.n_workers": kind(),
    "missing_checkpoints.model": MODEL,
    "missing_checkpoints.store": MADE_STORE,
    "open_results.analysis": choice("multivariate_importance"),
    "open_results.layer": kind("None"),
    "open_results.distance": choice("euclidean"),
    "open_results.features": [
        value._replace(plain=None)
        if "of one" in value.label or value.label == "one of them"
        else value
        for value in several(
            ["number", "animate", "frequency", "gender"], "None", twice=False, slow=True
        )
    ],
    "plot.clusters.cluster": without_anything(
        result(lambda w: w.groups, {"cluster": ("unit",)}, NO_RESULT)
    )
    + changed(
        lambda w: w.groups["cluster"],
        {
            "halves": lambda c: c + 0.5,
            "infinite": lambda c: c + np.inf,
            "all NaN": lambda c: c * np.nan,
            "text": lambda c: c.astype(str),
            "complex": lambda c: c.astype(complex),
            "other units": lambda c: c.isel(unit=[0, 1]),
            "no unit": lambda c: c.isel(unit=0),
        },
        {
            "Dask": lambda c: c.chunk(),
            "reversed dimensions": lambda c: c.transpose(*reversed(c.dims)),
            "renamed": lambda c: c.rename("nonsense"),
        },
    ),
    "from_arrays.activations": ARRAY,
    "from_arrays.features": without_anything(
        changed(
            lambda w: w.table,
            {k: v for k, v in TABLE_WRONG.items() if k != "no column sentence"},
            TABLE_SAME
            | {
                "no column sentence": (
                    lambda table: table.drop(columns="sentence"),
                    lambda data: data.drop_vars("text"),
                )
            },
        )
    )
    + TABLE_FILE,
    "plot.clusters.univariate": drawn(lambda w: w.part_of_scan, importance=("unit",)),
    "plot.compare.names": kind(
        *("None", "iterator of words"),
        same={
            label: (lambda _, way=way: way(["a", "b"]), constant(("a", "b")))
            for label, way in {"list": list, "array": np.array, "Index": pd.Index}.items()
        },
        wrong={
            "one": constant(["a"]),
            "three": constant(["a", "b", "c"]),
            "two letters": constant("ab"),
            "numbers": constant([1, 2]),
            "a set": constant({"a", "b"}),
            "blank": constant(["a", ""]),
        },
    ),
    "plot.correlation.correlations": changed(
        lambda w: w.matrix,
        {
            "above 1": lambda m: m + 1,
            "infinite": lambda m: m.where(m != m[0, 1], np.inf),
            "all NaN": lambda m: m * np.nan,
            "text": lambda m: m.astype(str),
            "complex": lambda m: m.astype(complex),
            "dates": lambda m: xr.zeros_like(m, dtype="datetime64[s]"),
            "one dimension": lambda m: m[0],
            "one dimension more": lambda m: m.expand_dims(x=2),
            "other dimensions": lambda m: m.rename(other_feature="x"),
            "no feature": lambda m: m[:0],
            "a Dataset": lambda m: m.to_dataset(name="x"),
            "an array": lambda m: m.values,
        },
        {
            "Dask": lambda m: m.chunk(),
            "reversed dimensions": lambda m: m.T,
            "renamed": lambda m: m.rename("nonsense"),
            "np.float32": lambda m: m.astype(np.float32),
        },
    ),
    "plot.decomposition.result": drawn(lambda w: w.parts, share=(), r2=(), r2_ceiling=()),
    "plot.decoding.result": drawn(lambda w: w.decoded, auc=()),
    "plot.feature_importance.decoding": optional(drawn(lambda w: w.decoded, auc=())),
    "plot.feature_importance.result": drawn(lambda w: w.profile, importance=()),
    "plot.mds.color": choice("number", "frequency", None),
    "plot.mds.result": drawn(lambda w: w.plane, position=("sentence", "axis")),
    "plot.image.figure": kind(wrong={"data": lambda w: w.profile}),
    "plot.save.figure": kind(wrong={"data": lambda w: w.profile}),
    "plot.save.path": path_to(".png"),
    "plot.top_k.result": drawn(lambda w: w.best, importance=()),
    "plot.unit_distribution.multivariate": optional(drawn(lambda w: w.profile, importance=())),
    "plot.unit_distribution.top_units": optional(drawn(lambda w: w.best, importance=())),
    "plot.unit_distribution.univariate": drawn(lambda w: w.part_of_scan, importance=("unit",)),
    "plot.unit_map.univariate": drawn(lambda w: w.part_of_scan, importance=("unit",)),
    "plot.unit_distribution.alpha": number("0.5"),
    "plot.unit_map.alpha": number("0.5"),
    "significant": SIGNIFICANT,
    **{
        f"{name}.scale": choice("linear", "squared")
        for name in (
            *("multivariate_importance", "univariate_importance", "top_unit_importance"),
            *("randomization_test", "decompose"),
        )
    },
    **{
        f"{name}.{argument}": kind
        for name in ("read_stimuli", "from_arrays")
        for argument, kind in ROLES.items()
    },
    "read_stimuli.source": TABLE_FILE
    + without_anything(changed(lambda w: w.table, TABLE_WRONG, TABLE_SAME))
    + without_anything(WHOLE_STIMULI),
    "record.dtype": kind(
        same={
            "float32": (constant("float32"), constant("float32")),
            "np.str_": (constant(np.str_("float32")), constant("float32")),
        },
        wrong={"float64": constant("float64"), "a dtype": constant(np.dtype("float32"))},
    ),
    "record.module": kind(
        "None",
        wrong={
            "two numbers": constant("encoder.{layer}.{layer}"),
            "no such module": constant("encoder.{layer}.nonsense"),
        },
    ),
    "record.device": kind("None", same={"cpu": (constant("cpu"), constant(None))}),
    "record.device_map": kind(
        "None",
        same={"auto": (constant("auto"), constant(None))},
        wrong={
            "no device": constant({"encoder": None}),
            "no such part": constant({"nonsense": "cpu"}),
            "no such device": constant({"": "nonsense"}),
        },
    ),
    "record.layer": several([1, 2], "None", "0", "1", slow=True),
    "record.model": NETWORK,
    "record.pooling": several(["mean", "last-token"], slow=True),
    "record.revision": kind(
        "None",
        wrong={
            "of a folder": constant("main"),
            "of steps of a folder": constant({1: "main"}),
            "of no step": constant({"main": "main"}),
            "of lists": constant({1: ["main"]}),
        },
    ),
    "record.seed": several([0], "0", "1", slow=True),
    "record.source": optional(NETWORK),
    "record.step": several([0], "None", "0", "1", "-1", "[None]", slow=True),
    "record.stimuli": WHOLE_STIMULI,
    "record.store": NEW_STORE,
    "record.tokenizer": optional(NETWORK),
    "save_results.refresh": several(["importance", "mds"], "empty list", "empty array", slow=True),
    "save_results.result": RESULT_TO_SAVE,
    "save_results.store": optional(store(made=False)),
    "to_dataframe.result": changed(
        lambda w: w.profile,
        {
            "a DataArray": lambda r: r["importance"],
            "a mapping": dict,
            "no variable": lambda r: r[[]],
        },
        {
            "Dask": lambda r: r.chunk(),
            "reversed dimensions": lambda r: r.transpose(*reversed(list(r.dims))),
            "without attributes": lambda r: without_attributes(*r.attrs)(r),
            "no layer": (lambda r: r.isel(layer=slice(0)), lambda table: table.iloc[:0]),
        },
    ),
    "top_unit_importance.activations": [
        value._replace(plain=None) if value.label in OTHER_LABELS else value
        for value in changed(lambda w: w.activations, ACTIVATIONS_WRONG, ACTIVATIONS_SAME)
    ],
    "top_unit_importance.univariate": result(lambda w: w.scan, {"r2": ("unit",)}, NO_RESULT),
    "univariate_importance.distance": choice("euclidean", "manhattan", "norm_diff"),
    # What is damaged is no mistake of the caller's here, but what is asked for.
    "verify_store.store": [value for value in store(made=False) if value.label not in DAMAGE],
    "repair_store.store": [value for value in store(made=False) if value.label not in DAMAGE],
    "write_stimuli.stimuli": WHOLE_STIMULI,
    "write_table.table": kind("DataFrame", "empty DataFrame"),
}
"""What an argument may be, by its name; where functions differ, by function and name."""

NAMED: dict[str, tuple[str, ...]] = {
    "source": ("source", "stimuli", "features", "items"),
    "first": ("first", "features"),
    "second": ("second", "features"),
    "result": ("result", "store", "features"),
    "stimuli": ("stimuli", "features", "items"),
    "activations": ("activations", "features", "items", "univariate"),
}
"""What messages call an argument: what it stands for, or what in it is at fault."""

KEYWORDS = {
    "open_results": ("distance", "features"),
}
"""Arguments that a function takes by any name."""


def function(name: str) -> Callable[..., Any]:
    found = mx
    for part in name.split("."):
        found = getattr(found, part)
    return found


def arguments(name: str) -> list[str]:
    parameters = inspect.signature(function(name)).parameters.values()
    own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return own + list(KEYWORDS.get(name, ()))


def kind_of(name: str, argument: str) -> Kind:
    return KINDS.get(f"{name}.{argument}") or KINDS[argument]


class Case(NamedTuple):
    """One call: a public function, with one argument that is not the usual one."""

    name: str
    argument: str
    value: Value

    def __str__(self) -> str:
        return f"{self.name}({self.argument}=<{self.value.label}>)"


NOT_RUN = {"local_client(n_workers=<None>)", "local_client(n_workers=<1>)"}
"""Calls that are right and take seconds; other tests make them."""


SLOW = (
    "add_activations",
    "create_store",
    "decoding_baseline",
    "list_results",
    "open_results",
    "record",
    "repair_store",
    "save_results",
    "verify_store",
)
"""Functions to which less is given, as are figures."""

DATA = ("activations", "stimuli")
"""Arguments that every function reads in its own way."""


def cases(name: str, argument: str) -> Iterator[Case]:
    """Make the calls of a function that differ in one argument.

    An option of several functions has one check, to which the first one gives all that is right:
    the others get one right value. Slow functions get all that is wrong for this argument alone,
    and every third of all other wrong values.
    """
    values = kind_of(name, argument)
    right = [value for value in values if value.plain is not None]
    wrong = [value for value in values if value.plain is None]
    slow = name in SLOW or name.startswith("plot.")
    shared = f"{name}.{argument}" not in KINDS and argument not in DATA
    if shared and name != first(argument):
        right = right[-1:]
    elif slow:
        right = right[::3]
    if slow:
        own = [value for value in wrong if value.label not in ANYTHING]
        others = [value for value in wrong if value.label in ANYTHING]
        wrong = own + others[(len(name) + len(argument)) % 3 :: 3]
    for value in right + wrong:
        case = Case(name, argument, value)
        if str(case) not in NOT_RUN:
            yield case


def first(argument: str) -> str:
    """Return the first function with an argument of the usual kind."""
    return next(
        name
        for name in FUNCTIONS
        if argument in arguments(name) and f"{name}.{argument}" not in KINDS
    )


def contents(found: Any) -> Any:
    """Return what counts of a result, in a form that `same` compares."""
    if isinstance(found, hv.core.Dimensioned):
        return [(e.label, e.dframe()) for e in found.traverse(lambda e: e, [hv.Element])]
    return found.compute() if isinstance(found, xr.Dataset | xr.DataArray) else found


def assert_same(found: Any, expected: Any) -> None:
    assert isinstance(found, type(expected))
    if isinstance(expected, xr.Dataset):
        assert set(expected.data_vars) <= set(found.data_vars)
        for name in expected.data_vars:
            assert_same(found[name], expected[name])
    elif isinstance(expected, xr.DataArray):
        # More coordinates and another order of dimensions come from what was given.
        found = found.drop_vars(set(found.coords) - set(expected.coords))
        found = found.transpose(*expected.dims)
        xr.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
