"""Stimulus tables: what is read, what survives a round trip, what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mlem_xr.running.writing import write_table
from mlem_xr.schema import InputError
from mlem_xr.stimuli import generate_stimuli, list_stimuli, read_stimuli, write_stimuli
from mlem_xr.stimuli.table import MAX_COLUMNS, from_codes, from_dataframe, to_codes, to_dataframe

TABLE = pd.DataFrame(
    {
        "sentence": ["she sings.", "they, too, sing.", "he said “no”.", "it\nrains."],
        "number": ["sg", "pl", "sg", None],
        "animate": [True, True, True, False],
        "plural": [False, None, True, None],
        "person": [3, 3, 2, 1],
        "age": [3, None, 2, 1],
        "zipf": [0.1 + 0.2, 1e-300, 5.0, np.nan],
        "code": ["NA", "None", "nan", "null"],
    }
)
DTYPES = {
    "number": "object",
    "animate": "bool",
    "plural": "object",
    "person": "int64",
    "age": "float64",
    "zipf": "float64",
    "code": "object",
}


def plain(values: np.ndarray) -> list:
    return [None if pd.isna(value) else value for value in values.tolist()]


def test_dtypes_and_undefined_values() -> None:
    stimuli = read_stimuli(TABLE)
    assert stimuli.attrs["features"] == list(DTYPES)
    assert {name: str(stimuli[name].dtype) for name in DTYPES} == DTYPES
    assert stimuli.text.values.tolist() == TABLE["sentence"].tolist()
    assert plain(stimuli.number.values) == ["sg", "pl", "sg", None]
    assert plain(stimuli.plural.values) == [False, None, True, None]
    assert plain(stimuli.age.values) == [3, None, 2, 1]
    assert stimuli.code.values.tolist() == ["NA", "None", "nan", "null"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    stimuli = read_stimuli(TABLE)
    path = tmp_path / f"my.set{suffix}"
    write_stimuli(stimuli, path)
    again = read_stimuli(path)
    xr.testing.assert_equal(again, stimuli)
    assert {name: str(again[name].dtype) for name in DTYPES} == DTYPES
    assert again.attrs == {**stimuli.attrs, "stimuli": "my.set"}
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_compressed_by_ending(tmp_path: Path) -> None:
    write_stimuli(read_stimuli(TABLE), tmp_path / "a.csv.gz")
    with gzip.open(tmp_path / "a.csv.gz", "rt", encoding="utf-8") as file:
        assert file.readline().startswith("sentence,number")


def test_strings_and_categories_from_pandas() -> None:
    table = TABLE.assign(
        number=TABLE["number"].astype("category"),
        animate=TABLE["animate"].astype(object),
        plural=TABLE["plural"].astype("boolean"),
        person=TABLE["person"].astype("Int64"),
        code=TABLE["code"].astype("string"),
    )
    stimuli = read_stimuli(table)
    assert {name: str(stimuli[name].dtype) for name in DTYPES} == DTYPES
    assert stimuli.attrs["stimuli_hash"] == read_stimuli(TABLE).attrs["stimuli_hash"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, None], "float64"),
        ([1, 2, 1], "int64"),
        ([0.5, 2, None], "float64"),
        ([True, False, None], "object"),
        ([True, False, True], "bool"),
        (["sg", "pl", None], "object"),
        ([1, "pl", None], "object"),
    ],
)
def test_categories_are_what_their_values_are(values: list, dtype: str) -> None:
    table = pd.DataFrame({"sentence": list("abcdef"), "x": pd.Categorical(values * 2)})
    nullable = table["x"].astype(object).convert_dtypes().astype("category")
    own = pd.Series(values * 2, dtype=object)
    for column in (table["x"], nullable, own, own.where(own.notna(), pd.NA)):
        stimuli = read_stimuli(table.assign(x=column))
        assert stimuli["x"].dtype == dtype
        assert plain(stimuli["x"].values) == values * 2
        assert stimuli.attrs["stimuli_hash"] == read_stimuli(table).attrs["stimuli_hash"]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "UInt8", "float32", "Float64"])
def test_numbers_of_any_size_are_the_same_numbers(dtype: str) -> None:
    table = TABLE.assign(number=[i % 3 for i in range(len(TABLE))])
    expected = table.astype({"number": "float64" if "loat" in dtype else "int64"})
    found = read_stimuli(table.astype({"number": dtype}))
    xr.testing.assert_identical(found, read_stimuli(expected))
    assert found["number"].dtype == expected["number"].dtype


def test_dataset_passes_through() -> None:
    stimuli = generate_stimuli("short_sentence")
    again = read_stimuli(stimuli)
    xr.testing.assert_identical(again, stimuli)
    bare = stimuli.copy()
    bare.attrs = {}
    assert read_stimuli(bare).attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


def test_input_is_not_changed() -> None:
    table = TABLE.copy(deep=True)
    read_stimuli(table)
    pd.testing.assert_frame_equal(table, TABLE)


def test_hash_depends_on_everything() -> None:
    changed = [
        TABLE,
        TABLE.iloc[::-1],
        TABLE.assign(number=["sg", "pl", "sg", "pl"]),
        TABLE.rename(columns={"number": "NUM"}),
        TABLE.assign(sentence=["a", "b", "c", "d"]),
        TABLE.drop(columns="code"),
    ]
    assert len({read_stimuli(table).attrs["stimuli_hash"] for table in changed}) == len(changed)


def test_to_dataframe_undoes_from_dataframe() -> None:
    pd.testing.assert_frame_equal(
        to_dataframe(from_dataframe(TABLE, name="table")).convert_dtypes(), TABLE.convert_dtypes()
    )


@pytest.mark.parametrize("name", [*DTYPES])
def test_codes_round_trip(name: str) -> None:
    values = read_stimuli(TABLE)[name].values
    codes, levels = to_codes(values)
    again = from_codes(codes, levels, str(values.dtype))
    assert again.dtype == values.dtype
    assert plain(again) == plain(values)
    assert ((codes == -1) == pd.isna(values)).all()


def test_bundled_names() -> None:
    known = list_stimuli()
    assert {"short_sentence", "relative_clause", "long_range_agreement"} <= set(known)
    assert all(description and "\n" not in description for description in known.values())
    xr.testing.assert_identical(read_stimuli("short_sentence"), generate_stimuli("short_sentence"))


def test_repeated_sentences_are_warned_of() -> None:
    table = TABLE.assign(sentence=["a", "b", "a", "c"])
    with pytest.warns(UserWarning, match="1 sentences repeat an earlier one, for example 'a'"):
        assert read_stimuli(table).sizes["sentence"] == 4


BAD_TABLES = {
    "no column 'sentence'; found: 'number'": TABLE[["number"]],
    "no features": TABLE[["sentence"]],
    "3 sentences; expected at least 4": TABLE.iloc[:3],
    "the sentence in row 2 is empty": TABLE.assign(sentence=["a", " ", "b", "c"]),
    "the sentence in row 4 is empty": TABLE.assign(sentence=["a", "b", "c", None]),
    "column 'unit'": TABLE.rename(columns={"number": "unit"}),
    "named twice": TABLE.rename(columns={"number": "code"}),
    "column 'code' holds": TABLE.assign(code=[[1], [2], [3], [4]]),
    "column 'age' holds": TABLE.assign(age=pd.date_range("2000", periods=4)),
    "column 'age' holds True and 1, which are equal; expected booleans or numbers": TABLE.assign(
        age=pd.Series([1, True, "a", None], dtype=object)
    ),
    "column 'code' holds False and 0.0, which are equal": TABLE.assign(
        code=pd.Series([np.False_, 0.0, 5, True], dtype=object)
    ),
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_bad_tables(message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_stimuli(BAD_TABLES[message])


@pytest.mark.parametrize("source", ["nonsense", "missing.csv", "folder.csv", "notes.txt"])
def test_unknown_source_names_what_was_tried_and_what_is_bundled(
    tmp_path: Path, source: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "notes.txt").write_text("sentence,a")
    with pytest.raises(InputError, match=source) as error:
        read_stimuli(tmp_path / source)
    assert "short_sentence" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", b"", "no header"),
        ("blank.csv", b"\nsentence,a\nyes,1\nno,2\n", "no header"),
        ("quotes.csv", b'sentence,a\n"x,1\n', ""),
        ("latin.csv", "sentence,a\nnaïve,1\n".encode("latin-1"), "utf-8"),
        ("commas.csv", b"sentence,a\n" + b"well, yes,1\nso, no,1\n" * 2, "more cells than columns"),
        ("twice.csv", b"sentence,a,a\nyes,1,2\n", "column 'a' is named twice"),
        ("nameless.csv", b"sentence,a,\nyes,1,2\nno,2,3\n", "column 3 has no name"),
        ("short.csv", b"sentence,a,b\nx,1,2\ny,1\nz,2,1\nw,1,1\n", "line 3: 2 cells; expected 3"),
        ("cut.csv", b"sentence,a\n" + b"yes,1\n" * 5 + b"no", "line 7: 1 cells; expected 2"),
        ("lines.csv", b'sentence,a\n"x\ny",1\n\n"u\nv"\nz,2\nw,3\n', "line 5: 1 cells; exp"),
        ("short.csv.gz", gzip.compress(b"sentence,a\nx,1\ny\nz,2\nw,1\n"), "line 3: 1 cells"),
        ("ragged.csv", b"sentence,a\nyes,1\nwell, no,1\n", ""),
        ("plain.csv.gz", b"sentence,a\nyes,1\n", ""),
        ("cut.csv.gz", gzip.compress(b"sentence,a\nyes,1\n" * 1000, mtime=0)[:40], ""),
        ("text.parquet", b"sentence,a\nyes,1\n", ""),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read .*{name}.*{reason}"):
        read_stimuli(tmp_path / name)


def test_a_table_may_have_a_thousand_columns_and_no_more(tmp_path: Path) -> None:
    numbers = np.arange(4 * MAX_COLUMNS).reshape(4, -1) % 3
    table = pd.DataFrame(numbers, columns=[f"f{i}" for i in range(MAX_COLUMNS)])
    table = pd.concat([four()["sentence"], table], axis=1)
    table.to_csv(tmp_path / "wide.csv", index=False)
    for source in (table, tmp_path / "wide.csv"):
        assert len(read_stimuli(source).attrs["features"]) == MAX_COLUMNS == 1000
    table = pd.concat([table, four()["odd"]], axis=1)
    table.to_csv(tmp_path / "wider.csv", index=False)
    for source in (table, tmp_path / "wider.csv"):
        with pytest.raises(InputError, match="1001 columns; expected at most 1000"):
            read_stimuli(source)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="found 3; expected a name, a path, a DataFrame or"):
        read_stimuli(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no coordinate 'text'"):
        read_stimuli(xr.Dataset(coords={"number": ("sentence", [1, 2])}))


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_stimuli(read_stimuli(TABLE), path)
    old = path.read_bytes()
    mixed = read_stimuli(TABLE.assign(code=["a", 3, True, 2.5]))
    with pytest.raises(InputError, match="cannot write .*a.parquet"):
        write_stimuli(mixed, path)
    assert path.read_bytes() == old
    assert [found.name for found in tmp_path.iterdir()] == ["a.parquet"]


def test_codes_are_numbered_by_first_appearance() -> None:
    codes, levels = to_codes(np.array([2, 7, 2, 1]))
    assert codes.dtype == np.int32 and codes.tolist() == [0, 1, 0, 2]
    assert levels == [2, 7, 1] and type(levels[0]) is int


def test_write_names_a_bad_path(tmp_path: Path) -> None:
    stimuli = read_stimuli(TABLE)
    with pytest.raises(InputError, match=r"a.txt; expected .csv, .csv.gz or .parquet"):
        write_stimuli(stimuli, tmp_path / "a.txt")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder; expected a file in a folder"):
        write_stimuli(stimuli, tmp_path / "file" / "a.csv")


def four(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"sentence": ["a b", "c d", "e f", "g h"], "odd": [1, 0, 1, 0]} | columns)


KEPT = {
    "carriage return": {"sentence": ["a\rb", "c", "d", "e"]},
    "line end": {"sentence": ["a\nb", "c", "d", "e"]},
    "quotes and commas": {"sentence": ['say "a", b', "c", "d", "e"]},
    "undefined": {"x": ["u", None, "v", "u"]},
    "booleans and nothing": {"x": [True, None, False, True]},
    "numbers and nothing": {"x": [1.5, np.nan, 2.0, 1.5]},
    "a word NA": {"x": ["NA", "u", "v", "u"]},
    "accents": {"x": ["é", "ß", "語", "é"]},
}
NOT_KEPT = {
    "leading zeros": {"x": ["01", "1", "2", "01"]},
    "numbers as text": {"x": ["1", "2", "3", "1"]},
    "an empty string": {"x": ["", None, "u", "v"]},
    "mixed types": {"x": [1, "1", 2, "2"]},
    "words of truth": {"x": ["True", "False", "True", "False"]},
    "NA among numbers": {"x": ["NA", "1", "2", "1"]},
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, kind: str, ending: str) -> None:
    stimuli = read_stimuli(four(**KEPT[kind]))
    write_stimuli(stimuli, tmp_path / f"table{ending}")
    again = read_stimuli(tmp_path / f"table{ending}")
    assert again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]
    pd.testing.assert_frame_equal(to_dataframe(again), to_dataframe(stimuli))


@pytest.mark.parametrize("kind", NOT_KEPT)
def test_what_a_csv_would_change_is_not_written(tmp_path: Path, kind: str) -> None:
    stimuli = read_stimuli(four(**NOT_KEPT[kind]))
    message = "a CSV file would not keep .* as it is .*; expected .parquet"
    with pytest.raises(InputError, match=message):
        write_stimuli(stimuli, tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == []
    if kind != "mixed types":
        write_stimuli(stimuli, tmp_path / "table.parquet")
        again = read_stimuli(tmp_path / "table.parquet")
        assert again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


def test_types_are_decided_over_the_whole_file(tmp_path: Path) -> None:
    """pandas reads long files in parts, and would find levels 1 and "1"."""
    n = 200_000
    condition = ["1", "2", "3"] * (n // 3 + 1)
    condition = [*condition[: n - 1], "filler"]
    table = pd.DataFrame({"sentence": [f"s {i}" for i in range(n)], "condition": condition})
    for column in range(8):
        table[f"c{column}"] = 1.5
    table.to_csv(tmp_path / "long.csv", index=False)
    stimuli = read_stimuli(tmp_path / "long.csv")
    assert set(to_codes(stimuli["condition"].values)[1]) == {"1", "2", "3", "filler"}


def test_missing_numbers_of_r_are_undefined(tmp_path: Path) -> None:
    text = "sentence,x,word\na,1.5,NA\nb,NA,u\nc,2,u\nd,1.5,v\n"
    (tmp_path / "r.csv").write_text(text)
    with pytest.warns(UserWarning, match="'NA' in the numbers of column 'x' is undefined"):
        stimuli = read_stimuli(tmp_path / "r.csv")
    np.testing.assert_array_equal(stimuli["x"].values, [1.5, np.nan, 2.0, 1.5])
    assert stimuli["word"].values.tolist() == ["NA", "u", "u", "v"]


def test_row_numbers_without_a_name_are_left_out(tmp_path: Path) -> None:
    four().to_csv(tmp_path / "numbered.csv")
    with pytest.warns(UserWarning, match="the first column, without a name, numbers the rows"):
        stimuli = read_stimuli(tmp_path / "numbered.csv")
    assert stimuli.attrs["features"] == ["odd"]
    four().set_axis([3, 5, 9, 2]).to_csv(tmp_path / "other.csv")
    with pytest.raises(InputError, match="the first column has no name"):
        read_stimuli(tmp_path / "other.csv")


def test_semicolons_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("sentence;x\na;1\nb;2\nc;1\nd;2\n")
    with pytest.raises(InputError, match="one column, with semicolons; expected commas"):
        read_stimuli(tmp_path / "s.csv")


def test_columns_may_have_numbers_for_names() -> None:
    stimuli = read_stimuli(four().rename(columns={"odd": 3}))
    assert stimuli.attrs["features"] == ["3"]


TYPES = {
    "sentence": ["a", "b", "c", "d", "e"],
    "word": ["x", "y", None, "x", "y"],
    "whole": [1, 2, 3, 1, 2],
    "some": [1, 2, None, 1, 2],
    "flag": [True, False, True, None, False],
    "sure": [True, False, True, False, False],
    "length": [1.5, 2.5, None, 0.5, 1.0],
}


@pytest.mark.parametrize("convert", ["plain", "classes", "batch"])
def test_tables_of_arrow_are_those_of_pandas(convert: str) -> None:
    """Nulls, whole numbers with nulls, booleans with nulls and classes keep what they are."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(TYPES)
    if convert == "classes":
        table = table.set_column(1, "word", table["word"].dictionary_encode())
    elif convert == "batch":
        table = arrow.RecordBatch.from_pydict(TYPES)
    expected = read_stimuli(pd.DataFrame(TYPES), numeric=["length"])
    found = read_stimuli(table, numeric=["length"])
    assert found.identical(expected)
    assert found.attrs["stimuli_hash"] == expected.attrs["stimuli_hash"]


def test_what_a_table_of_arrow_may_not_hold_is_named() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({**TYPES, "parts": [[1], [2], [3], [1], [2]]})
    with pytest.raises(InputError, match=r"^stimuli: column 'parts' holds array\(\[1\]\); "):
        read_stimuli(table)


class Frame:
    """A table of another library."""

    def __init__(self, given: object = None) -> None:
        self.given = four() if given is None else given

    def to_pandas(self) -> object:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def test_frames_of_other_libraries_are_read() -> None:
    assert read_stimuli(Frame()).equals(read_stimuli(four()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"train": Frame(), "test": Frame()},
            r"stimuli: found the tables 'train', 'test'; expected one of them, such as "
            r"stimuli\['train'\]",
        ),
        ({"train": four()}, "stimuli: found the tables 'train'; expected one of them"),
        (Frame([1, 2]), r"stimuli: its to_pandas\(\) gives \[1, 2\]; expected a DataFrame"),
        (Frame(KeyError("schema")), r"stimuli: its to_pandas\(\) fails: .*schema"),
    ],
)
def test_what_is_no_table_is_named(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_stimuli(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (["a", "b"], r"the sentence in row 2 is \['a', 'b'\]; expected text"),
        (3, "the sentence in row 2 is 3; expected text"),
        (b"a", "the sentence in row 2 is b'a'; expected text"),
        ("a\ud800", "the sentence in row 2 is .*; expected text"),
        (None, "the sentence in row 2 is empty"),
        (" ", "the sentence in row 2 is empty"),
    ],
)
def test_sentences_are_text(sentence: object, message: str) -> None:
    table = four().astype(object)
    table.at[1, "sentence"] = sentence
    with pytest.raises(InputError, match=message):
        read_stimuli(table)


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="column 'x' holds .*1j.*; expected booleans, numbers"):
        read_stimuli(four(x=[1 + 1j, 1 + 2j, 1j, 0]))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/b", ".a"])
def test_names_that_no_store_can_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="^stimuli: .*column .*; expected a (name without|word)"):
        read_stimuli(four(**{name: [1, 2, 1, 2]}))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x"], r'x holds more than 20 different numbers; .*: write numeric=\["x"\] in'),
        (["x", "y"], r'x, y hold more than 20 different numbers; .* numeric=\["x", "y"\] in'),
    ],
)
def test_measurements_are_warned_of_once(names: list[str], words: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sentence": [f"s {i}" for i in range(40)]})
    table[names] = rng.normal(size=(40, len(names)))
    with pytest.warns(UserWarning, match=words) as caught:
        read_stimuli(table)
    assert len(caught) == 1


def test_the_hash_of_stimuli_stays_that_of_stores_written_before() -> None:
    table = pd.DataFrame(
        {
            "sentence": list("abcd"),
            "tense": ["past", "present", "past", None],
            "long": [True, False, True, False],
            "length": [1.5, 2.0, 3.25, 4.0],
            "x": [0.0, 1.0, 0.5, 0.25],
            "y": [1.0, 2.0, 3.0, 4.0],
            "noun": ["n1", "n1", "n2", "n2"],
        }
    )
    stimuli = read_stimuli(table, numeric=["length"], vector={"place": ["x", "y"]}, items=["noun"])
    assert stimuli.attrs["stimuli_hash"] == "650601b0839254aba892a75a74a42d80"


@pytest.mark.parametrize(
    "name", ["A.CSV", "a.Csv", "a.csv.GZ", "a.CSV.gz", "a.PARQUET", "folder.csv.gz/a.Csv"]
)
def test_endings_in_capitals_are_the_same_endings(tmp_path: Path, name: str) -> None:
    stimuli, path = read_stimuli(TABLE), tmp_path / name
    write_stimuli(stimuli, path)
    plain = path.with_name("plain" + path.name[1:].lower())
    write_stimuli(stimuli, plain)
    assert path.read_bytes() == plain.read_bytes()
    again = read_stimuli(path)
    assert again.attrs == {**stimuli.attrs, "stimuli": path.name[0]}
    write_table(TABLE, path)
    write_table(TABLE, plain)
    assert path.read_bytes() == plain.read_bytes()


def test_a_grammar_may_end_in_capitals(tmp_path: Path) -> None:
    rules = "%column word = noun.WORD\nS -> N[ROLE=noun] V\nV -> 'sings' | 'waits'\n"
    words = "".join(f"N[WORD={word}] -> '{word}'\n" for word in ("he", "she"))
    (tmp_path / "own.FCFG").write_text(rules + words)
    assert read_stimuli(tmp_path / "own.FCFG").attrs["stimuli"] == "own"


BIG = 2**53 + 1


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([BIG, 2**53, None, 3], dtype="Int64"),
        pd.Series([BIG, 2**53, None, 3], dtype=object),
        pd.Series([BIG, 2**53, pd.NA, 3], dtype=object),
        pd.Series([BIG, 2**53, 0.5, 3], dtype=object),
        pd.Series([np.int64(BIG), 2**53, None, 3], dtype=object),
        pd.Categorical([BIG, 2**53, None, 3]),
    ],
)
def test_whole_numbers_that_would_become_others_are_refused(values: object) -> None:
    """float64 has no 2**53 + 1."""
    message = f"column 'x' holds {BIG}.*, which would become {2**53}; expected whole numbers up to"
    with pytest.raises(InputError, match=f"^stimuli: {message}"):
        read_stimuli(four(x=values))
    data = xr.Dataset(coords={"text": ("sentence", list("abcd")), "y": ("sentence", [1, 2, 1, 2])})
    data = data.assign_coords(x=("sentence", np.array([BIG, 2**53, None, 3], dtype=object)))
    with pytest.raises(InputError, match=f"^stimuli: {message}"):
        read_stimuli(data)


def test_large_whole_numbers_of_arrow_are_refused_where_some_are_undefined() -> None:
    pytest.importorskip("pyarrow")
    values = pd.Series([BIG, 2**53, None, 3], dtype="int64[pyarrow]")
    with pytest.raises(InputError, match=f"^stimuli: column 'x' holds {BIG}, which would"):
        read_stimuli(four(x=values))


@pytest.mark.parametrize("role", [{"numeric": "x"}, {"vector": {"x": ["x"]}}])
def test_large_whole_numbers_are_no_measurements(role: dict) -> None:
    table = four(x=[BIG, 2**53, 1, 3])
    assert to_codes(read_stimuli(table)["x"].values)[1] == [BIG, 2**53, 1, 3]
    with pytest.raises(InputError, match=f"^{next(iter(role))}: column 'x' holds {BIG}, which"):
        read_stimuli(table, **role)
    with pytest.raises(InputError, match=f"^{next(iter(role))}: column 'x' holds {BIG}, which"):
        read_stimuli(read_stimuli(table), **role)


def test_large_whole_numbers_that_floats_hold_are_kept() -> None:
    table = four(x=pd.Series([2**60, -(2**63), None, 2**53 + 2], dtype="Int64"))
    assert plain(read_stimuli(table)["x"].values) == [2**60, -(2**63), None, 2**53 + 2]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    text = "sentence,x,y\r\na,1,\r\n\r\nb,2,\r\n  \r\nc,1,u\r\nd,2,v\r\n\r\n"
    (tmp_path / "table.csv").write_text(text, newline="")
    stimuli = read_stimuli(tmp_path / "table.csv")
    assert stimuli["text"].values.tolist() == list("abcd")
    assert plain(stimuli["y"].values) == [None, None, "u", "v"]


@pytest.mark.parametrize("number", [str(2**63), f"+{2**63}", f"{2**64}", "1" * 30])
@pytest.mark.parametrize("others", [["", "3", "3"], ['""', "3", "-1"], ["", "NA", "u"]])
def test_an_empty_cell_is_never_a_level(tmp_path: Path, number: str, others: list[str]) -> None:
    rows = [f"{text},{cell}\n" for text, cell in zip("abcd", [number, *others], strict=True)]
    (tmp_path / "table.csv").write_text("sentence,x\n" + "".join(rows))
    try:
        stimuli = read_stimuli(tmp_path / "table.csv")
    except InputError as error:
        assert f"column 'x' holds {number}; expected" in str(error)
    else:
        assert plain(stimuli["x"].values) == [number, None, *others[1:]]


@pytest.mark.parametrize("other", ["", "NA", "0.5"])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_large_whole_numbers_of_a_csv_are_not_made_others(
    tmp_path: Path, other: str, ending: str
) -> None:
    path = tmp_path / f"table{ending}"
    cells = pd.DataFrame({"sentence": list("abcd"), "x": [str(BIG), str(2**53), other, "3"]})
    write_table(cells, path)
    with pytest.raises(InputError, match=f"^stimuli: column 'x' holds {BIG}, which would become"):
        read_stimuli(path)
    write_table(cells.assign(x=[str(2**60), f"{float(2**53)}", other, "1e300"]), path)
    value = {"0.5": 0.5}.get(other)
    assert plain(read_stimuli(path)["x"].values) == [2**60, 2**53, value, 1e300]
    write_table(cells.assign(x=[str(BIG), str(2**53), "1", "3"]), path)
    assert read_stimuli(path)["x"].values.tolist() == [BIG, 2**53, 1, 3]


def test_large_whole_numbers_beside_nulls_of_arrow_are_not_made_others(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"sentence": list("abcd"), "x": [BIG, 2**53, None, 3]})
    parquet.write_table(table, tmp_path / "table.parquet")
    kept = table.set_column(1, "x", arrow.array([2**60, 2**53, None, 3]))
    parquet.write_table(kept, tmp_path / "kept.parquet")
    for source in (table, tmp_path / "table.parquet"):
        with pytest.raises(InputError, match=f"^stimuli: column 'x' holds {BIG}, which would"):
            read_stimuli(source)
    for source in (kept, tmp_path / "kept.parquet"):
        assert plain(read_stimuli(source)["x"].values) == [2**60, 2**53, None, 3]
