"""The command line as a person runs it: exit codes, what is shown, files."""

import contextlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.shell_completion import BashComplete

import mlem_xr as mx
from helpers import layers, write
from mlem_xr.analyses import ANALYSES
from mlem_xr.cli import app, main
from mlem_xr.cli.output import print_profile
from networks import SENTENCES, save_bert, save_own_code, stimuli

COMMAND = Path(sys.executable).with_name("mlem-xr")


def run(*arguments, code=0, cwd=None):
    """Run a command in this process, which has imported already what it needs."""
    words = ["mlem-xr", *map(str, arguments)]
    logger, shown, errors = logging.getLogger("mlem_xr"), io.StringIO(), io.StringIO()
    handlers, level = list(logger.handlers), logger.level
    with (
        contextlib.chdir(cwd or "."),
        patch.object(sys, "argv", words),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as end,
    ):
        warnings.resetwarnings()
        # As Python does where nobody tests.
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        main()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    found = subprocess.CompletedProcess(
        words, end.value.code or 0, shown.getvalue(), errors.getvalue()
    )
    return check(found, code)


def run_alone(*arguments, code=0, cwd=None):
    """Run a command as installed, in a process of its own."""
    words = [COMMAND, *map(str, arguments)]
    return check(subprocess.run(words, capture_output=True, text=True, cwd=cwd, timeout=600), code)


def check(found, code):
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    return found


def fails(*arguments, code=2, cwd=None):
    """Return the one line that says what is wrong."""
    lines = run(*arguments, code=code, cwd=cwd).stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.fixture
def folder(recorded, tmp_path):
    """A folder with sentences, a small network and its store."""
    return shutil.copytree(recorded, tmp_path / "folder")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    mx.write_stimuli(
        stimuli([*SENTENCES, "Mary sings.", "The dogs see the boy."]), folder / "sentences.csv"
    )
    save_bert(folder / "network")
    found = run("record", "sentences.csv", "--model", "network", "--store", "s.zarr", cwd=folder)
    assert "recorded" in found.stdout
    return folder


def test_the_command_is_installed(tmp_path):
    found = run_alone("info", "nowhere.zarr", code=2, cwd=tmp_path)
    assert (found.stdout, found.stderr) == ("", "error: store: there is no store at nowhere.zarr\n")
    asked = {"_MLEM_XR_COMPLETE": "bash_complete", "COMP_WORDS": "mlem-xr sti", "COMP_CWORD": "1"}
    found = subprocess.run([COMMAND], capture_output=True, text=True, env=os.environ | asked)
    assert found.stdout == "plain,stimuli\n"


def test_shells_complete_commands_options_and_values():
    def completed(*words):
        shell = BashComplete(app(), {}, "mlem-xr", "_MLEM_XR_COMPLETE")
        return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]

    script = run("completion", "bash").stdout
    assert "_MLEM_XR_COMPLETE=bash_complete" in script
    assert "_mlem_xr_completion mlem-xr\n" in script
    assert completed("mult") == ["multivariate"]
    assert completed("multivariate", "s.zarr", "--zs") == ["--zscore"]
    assert completed("multivariate", "s.zarr", "--distance", "c") == [
        "cityblock",
        "chebyshev",
        "cosine",
        "correlation",
        "canberra",
    ]


def test_stimuli_are_listed_and_written(tmp_path):
    listed = run("stimuli").stdout
    assert all(name in listed for name in ("short_sentence", "relative_clause"))
    found = run("stimuli", "short_sentence", "-o", "s.csv", cwd=tmp_path)
    assert "522 sentences, 9 features" in found.stdout
    assert len(pd.read_csv(tmp_path / "s.csv")) == 522
    run("stimuli", "short_sentence", "-o", "s.parquet", cwd=tmp_path)
    assert len(pd.read_parquet(tmp_path / "s.parquet")) == 522
    options = ("--n-sentences", 70, "--random-state", 1, "-o", "l.csv")
    found = run("stimuli", "large", *options, cwd=tmp_path)
    assert "--item obj_LEMMA" in found.stdout and "--numeric sentence_length" in found.stdout
    expected = mx.generate_stimuli("large", n_sentences=70, random_state=1)
    assert pd.read_csv(tmp_path / "l.csv")["sentence"].tolist() == expected.text.values.tolist()


def test_stimuli_are_described(tmp_path):
    found = run("stimuli", "short_sentence", "--describe", cwd=tmp_path)
    assert "subj_GEN" in found.stdout
    assert list(tmp_path.iterdir()) == []
    options = ("--describe", "--heat-map", "correlation.png")
    found = run("stimuli", "short_sentence", *options, cwd=tmp_path)
    assert found.stdout.endswith("\nwrote correlation.png\n")
    assert (tmp_path / "correlation.png").read_bytes()[:4] == b"\x89PNG"


def test_the_steps_by_hand(folder):
    shown = run("info", "s.zarr", cwd=folder).stdout
    assert "13 sentences; number" in shown
    assert "layer: 1, 2" in shown
    assert re.search(r"^model +seed +step +pooling +layer +units +source *$", shown, re.M)
    assert re.search(r"network +0 +final +first-token, mean, last-token +1-2 +16 ", shown)
    found = run("multivariate", "s.zarr", "--layer", 1, "-o", "profile.csv", cwd=folder)
    assert found.stdout.endswith("\nwrote profile.csv\n")
    assert "3 representations computed" in found.stderr
    table = pd.read_csv(folder / "profile.csv")
    assert set(table["layer"]) == {1}
    expected = mx.multivariate_importance(mx.open_store(folder / "s.zarr")).sel(layer=1)
    np.testing.assert_allclose(table["importance"], expected["importance"].values.ravel())
    twice = ("--layer", 1, "--layer", 1, "-o", "twice.csv")
    assert "3 representations skipped" in run("multivariate", "s.zarr", *twice, cwd=folder).stderr
    pd.testing.assert_frame_equal(pd.read_csv(folder / "twice.csv"), table)
    found = run("multivariate", "s.zarr", cwd=folder)
    assert "3 representations computed, 3 skipped" in found.stderr
    found = run("multivariate", "s.zarr", "--refresh", "importance", cwd=folder)
    assert "6 representations computed" in found.stderr
    run("plot", "feature-importance", "s.zarr", "-o", "p.png", "--linear", cwd=folder)
    assert (folder / "p.png").read_bytes()[:4] == b"\x89PNG"
    shown = run("info", "s.zarr", cwd=folder).stdout
    assert re.search(r"multivariate_importance +default settings +.* 6 +0", shown)
    shown = run("info", "s.zarr", "--detail", cwd=folder).stdout
    assert len(re.findall(r"multivariate_importance +default settings .* current", shown)) == 6


def test_info_names_checkpoints_with_lost_chunks(folder, tmp_path):
    shutil.copytree(folder / "s.zarr", tmp_path / "s.zarr")
    next(file for file in (tmp_path / "s.zarr/activation/c").rglob("*") if file.is_file()).unlink()
    found = run("info", "s.zarr", cwd=tmp_path)
    assert found.stderr == (
        "warning: chunks of model=network, seed=0, step=-1 are missing; record it again\n"
    )


def test_units_are_scanned(folder):
    options = ("--pooling", "mean", "--distance", "manhattan", "--mae", "--conditional", "exact")
    found = run("univariate", "s.zarr", *options, "-o", "units.parquet", cwd=folder)
    assert "2 representations computed" in found.stderr
    assert "units/s" in found.stderr
    table = pd.read_parquet(folder / "units.parquet")
    assert set(table["pooling"]) == {"mean"}
    assert len(table) == 2 * 16
    scan = mx.univariate_importance(
        mx.open_store(folder / "s.zarr"), distance="manhattan", mae=True, conditional="exact"
    )
    np.testing.assert_array_equal(table["mae"], scan["mae"].sel(pooling="mean").values.ravel())


def test_the_other_analyses(folder):
    found = run("mds", "s.zarr", "--init", "classical", "-o", "mds.csv", cwd=folder)
    assert "6 representations computed" in found.stderr
    assert set(pd.read_csv(folder / "mds.csv")["axis"]) == {0, 1}
    again = run("mds", "s.zarr", "--init", "classical", cwd=folder)
    assert "6 representations skipped" in again.stderr
    options = ("--init", "classical", "--layer", 1, "--color", "number")
    run("plot", "mds", "s.zarr", *options, "-o", "mds.png", cwd=folder)
    assert (folder / "mds.png").read_bytes()[:4] == b"\x89PNG"
    found = run("decoding", "s.zarr", "--names", "original", "-o", "auc.csv", cwd=folder)
    assert "6 representations computed" in found.stderr
    table = pd.read_csv(folder / "auc.csv")
    assert set(table["Method"]) == {"Decoding"}
    assert {"Feature", "AUC", "std", "sem", "pval", "layer"} <= set(table.columns)
    run("univariate", "s.zarr", cwd=folder)
    run("plot", "unit-distribution", "s.zarr", "--show", "r2", "-o", "u.html", cwd=folder)
    assert (folder / "u.html").stat().st_size > 10_000


def test_analyses_of_a_scan_save_the_scan_too(folder):
    options = ("--pooling", "mean", "--univariate-zscore", "--univariate-random-state", 3)
    found = run("top-units", "s.zarr", "--k", 2, "--k", 1, *options, "-o", "top.csv", cwd=folder)
    assert "univariate_importance: 2 representations computed" in found.stderr
    assert "top_unit_importance: 2 representations computed" in found.stderr
    assert "largest importance" in found.stdout
    assert set(pd.read_csv(folder / "top.csv")["k"]) == {1, 2}
    data = mx.open_store(folder / "s.zarr").sel(pooling=["mean"])
    scan = mx.univariate_importance(data, zscore=True, random_state=3)
    best = mx.top_unit_importance(data, scan, k=[1, 2])
    nested = {"zscore": True, "random_state": 3}
    opened = mx.open_results(
        folder / "s.zarr", "top_unit_importance", k=[1, 2], univariate=nested
    ).sel(pooling=["mean"])
    np.testing.assert_array_equal(opened["importance"], best["importance"])
    found = run("clusters", "s.zarr", "--scale", "none", *options, "-o", "c.csv", cwd=folder)
    assert "univariate_importance: 2 representations skipped" in found.stderr
    groups = mx.cluster_units(scan, scale=None)
    assert len(pd.read_csv(folder / "c.csv")) == 2 * 16
    opened = mx.open_results(folder / "s.zarr", "cluster_units", scale=None).sel(pooling=["mean"])
    np.testing.assert_array_equal(opened["cluster"], groups["cluster"])
    run("correct-p-values", "s.zarr", "--method", "holm-sidak", *options, "-o", "p.csv", cwd=folder)
    corrected = mx.to_dataframe(mx.correct_p_values(scan, method="holm-sidak"))
    np.testing.assert_allclose(pd.read_csv(folder / "p.csv")["p_value"], corrected["p_value"])
    shown = run("info", "s.zarr", cwd=folder).stdout
    assert re.search(
        r"top_unit_importance +k 1, 2; univariate \(zscore True; random_state 3\)", shown
    )


def test_every_command_and_every_option_says_what_it_is_for():
    def commands(command):
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from commands(one)

    options = [
        parameter
        for command in commands(app())
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
    assert len(options) > 100
    assert all(command.help for command in commands(app()))
    assert not [option.opts for option in options if not option.help]


def test_every_analysis_has_a_command_with_all_its_options():
    assert "multivariate" in run("--help").stdout
    for analysis in ANALYSES.values():
        shown = run(analysis.command, "--help").stdout
        assert analysis.help in " ".join(shown.split())
        for name in analysis.options.names():
            flag = (analysis.options.spec(name).metadata["flag"] or name).replace("_", "-")
            assert re.search(rf"--{flag}\b", shown), f"{analysis.command} has no --{flag}"


def test_the_command_line_has_the_defaults_of_the_library(folder):
    """An option that is not given is the library's own; special tokens stand in both."""
    for command, analysis in (("multivariate", "multivariate_importance"), ("mds", "mds")):
        run(command, "s.zarr", cwd=folder)
        settings = mx.open_results(folder / "s.zarr", analysis).attrs["settings"]
        defaults = ANALYSES[analysis].options.defaults()
        assert {name: settings[name] for name in defaults} == defaults
    provenance = json.loads(mx.open_store(folder / "s.zarr")["provenance"].item())
    default = inspect.signature(mx.record).parameters["add_special_tokens"].default
    assert provenance["tokenizer"]["add_special_tokens"] == default
    given = ["s.csv", "--model", "network", "--store", "s.zarr"]
    options = app().commands["record"].make_context("record", given).params
    for name in ("trust_remote_code", "overwrite", "batch_size", "tokenizer", "device"):
        assert options[name] == inspect.signature(mx.record).parameters[name].default


def test_every_option_of_recording_and_generating_arrives(folder, monkeypatch):
    """Each is given another value than its own, and the function gets that."""

    def given_to(name, returned, command):
        asked = {}
        parameters = inspect.signature(getattr(mx, name)).parameters
        monkeypatch.setattr(mx, name, lambda *_, **given: asked.update(given) or returned)
        run(*command.split(), cwd=folder)
        options = {k: v.default for k, v in parameters.items() if v.kind == v.KEYWORD_ONLY}
        assert set(asked) == set(options) - {"progress"}
        assert not [option for option, value in asked.items() if value == options[option]]
        return asked

    table = pd.DataFrame({"status": ["recorded"], "cause": [""]})
    assert given_to(
        "record",
        table,
        "record sentences.csv --store t.zarr --model toy --seed 3 --seed 5 --step 0 --step 7 "
        "--source there --revision 0=old --revision 7=new --pooling mean --layer 2 --module part "
        "--no-special-tokens --truncate --tokenizer elsewhere --trust-remote-code --device cuda "
        "--device-map auto --dtype float16 --batch-size 3 --no-keep-weights --overwrite",
    ) == {
        "model": "toy",
        "seed": (3, 5),
        "step": (0, 7),
        "source": "there",
        "revision": {0: "old", 7: "new"},
        "pooling": ("mean",),
        "layer": (2,),
        "module": "part",
        "add_special_tokens": False,
        "truncate": True,
        "tokenizer": "elsewhere",
        "trust_remote_code": True,
        "device": "cuda",
        "device_map": "auto",
        "dtype": "float16",
        "batch_size": 3,
        "keep_weights": False,
        "overwrite": True,
    }
    assert given_to(
        "generate_stimuli",
        stimuli(),
        "stimuli own.txt --lexicon words.txt --words-per-class 4 --n-sentences 9 --random-state 2",
    ) == {"lexicon": "words.txt", "words_per_class": 4, "n_sentences": 9, "random_state": 2}


def test_code_of_a_network_runs_only_if_the_command_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    save_own_code(tmp_path / "own")
    options = ("sentences.csv", "--model", tmp_path / "own", "--store", tmp_path / "t.zarr")
    line = fails("record", *options, cwd=folder)
    assert "'modeling_own.py', which is not run; expected trust_remote_code=True" in line
    run("record", *options, "--trust-remote-code", cwd=folder)
    provenance = json.loads(mx.open_store(tmp_path / "t.zarr")["provenance"].item())
    assert provenance["trust_remote_code"] is True


def test_the_tokenizer_may_be_elsewhere(folder, tmp_path):
    network, other = tmp_path / "network", tmp_path / "tokenizer"
    shutil.copytree(folder / "network", network)
    other.mkdir()
    for file in network.glob("*token*"):
        file.rename(other / file.name)
    options = ("sentences.csv", "--model", network, "--store", tmp_path / "t.zarr")
    assert "has no tokenizer" in fails("record", *options, cwd=folder)
    run("record", *options, "--tokenizer", other, cwd=folder)
    expected = mx.open_store(folder / "s.zarr")["activation"]
    np.testing.assert_array_equal(mx.open_store(tmp_path / "t.zarr")["activation"], expected)


def test_a_second_recording_is_skipped(recorded):
    again = run("record", "sentences.csv", "--model", "network", "--store", "s.zarr", cwd=recorded)
    assert "skipped" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "nowhere.zarr"), "there is no store at nowhere.zarr"),
        (("multivariate", "s.zarr", "--layer", "9"), "layer: unknown value 9; known: 1, 2"),
        (("multivariate", "s.zarr", "--pooling", "max"), "pooling: unknown value 'max'; known"),
        (("multivariate", "s.zarr", "--feature", "tense"), "features: unknown value 'tense'"),
        (("multivariate", "s.zarr", "--distance", "far"), "distance: unknown value 'far'; known"),
        (("multivariate", "s.zarr", "-o", "x.doc"), "x.doc; expected .csv, .csv.gz or .parquet"),
        (("multivariate", "s.zarr", "--conditional", "perhaps"), "known: 'no', 'yes', 'exact'"),
        (("univariate", "s.zarr", "--distance", "cosine"), "'cosine' means nothing for a single"),
        (("plot", "feature-importance", "s.zarr", "-o", "p.bmp"), "p.bmp; expected .png"),
        (("stimuli", "long_sentence"), "long_sentence"),
        (("record", "nothing.csv", "--model", "network", "--store", "x.zarr"), "nothing.csv"),
        (("record", "sentences.csv", "--model", "./nonet", "--store", "x.zarr"), "nonet"),
        (("record", "short_sentence", "--model", "network", "--store", "s.zarr"), "other stimuli"),
        (
            ("record", "sentences.csv", "--model", "m", "--store", "x.zarr", "--revision", "1.5=r"),
            "error: revision: found the step '1.5'; expected a number",
        ),
        (
            ("plot", "mds", "s.zarr", "-o", "p.png", "--rename", "number"),
            "error: rename: found 'number'; expected two words with = between them",
        ),
        (
            ("multivariate", "s.zarr", *("--group", "g=tense", "--group", "g=number")),
            "error: groups: 'g' is named 2 times; expected once",
        ),
        (
            ("test", "s.zarr", *("--item", "tense=noun", "--item", "tense=verb")),
            "error: items: 'tense' is named 2 times; expected once",
        ),
        (
            ("mds", "s.zarr", "--workers", "2"),
            "error: workers: found 2 without --cluster; expected both",
        ),
        (
            ("info", "s.zarr", "--detail", "--repair"),
            "error: detail: found with --repair; expected one alone",
        ),
    ],
)
def test_a_mistake_gets_one_clear_line_and_leaves_nothing(folder, arguments, message):
    before = sorted(path.name for path in folder.iterdir())
    assert message in fails(*arguments, cwd=folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_usage_errors_exit_with_two(folder):
    assert fails("nonsense").startswith("error: No such command 'nonsense'")
    assert "Missing option '--model'" in fails("record", "sentences.csv", cwd=folder)
    message = fails("top-units", "s.zarr", cwd=folder)
    assert message == "error: Missing option '--k'; see mlem-xr top-units --help"
    shown = run(code=2).stderr
    assert shown.startswith("Usage: mlem-xr [OPTIONS] COMMAND")


def test_an_interruption_ends_with_the_code_that_shells_have_for_it(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mx, "record", interrupted)
    options = ("sentences.csv", "--model", "network", "--store", "s.zarr")
    found = run("record", *options, code=128 + signal.SIGINT, cwd=folder)
    assert (found.stdout, found.stderr) == ("", "")


def test_a_selection_without_records_is_named(tmp_path):
    sentences = stimuli([*SENTENCES, "Mary sings.", "The dogs see the boy."])
    path = mx.create_store(sentences, tmp_path / "s.zarr")
    write(path, layers(0, n=sentences.sizes["sentence"]), seed=0)
    write(path, layers(1, n=sentences.sizes["sentence"]), model="other", seed=1)
    message = fails("multivariate", path, "--model", "other", "--seed", 0)
    assert message.startswith("error: result: nothing to save, as there are 9 representations not")


def test_the_demonstration_finds_everything_there_the_second_time(tmp_path):
    first = run("demo", "--folder", "stores", cwd=tmp_path)
    assert "18 representations computed" in first.stderr
    assert "sentence_GROUP" in first.stdout
    for kind in ("png", "html"):
        figure = Path("stores") / f"demo_feature_importance.{kind}"
        assert (tmp_path / figure).stat().st_size > 10_000
        assert f"wrote {figure}\n" in first.stdout
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    second = run("demo", "--folder", "stores", cwd=tmp_path)
    assert "everything was there: nothing computed" in second.stdout
    assert "wrote" not in second.stdout
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    changed = {p.name for p in after if after[p] != times.get(p)}
    assert changed <= {"demo.zarr.lock"}


def test_a_set_is_described_where_that_is_asked_for():
    assert "covariate patterns" not in run("stimuli", "short_sentence").stdout
    assert "covariate patterns" in run("stimuli", "short_sentence", "--describe").stdout


def test_a_profile_names_the_three_largest_and_what_is_explained(capsys):
    profile = xr.Dataset(
        {
            "importance": (("layer", "feature"), [[0.5, 0.1234, 0, 2], [np.nan, 1e-5, 0.25, 3]]),
            "r2": ("layer", [0.98765, 0.5]),
        },
        {"model": "toy", "layer": [1, 12], "feature": ["a", "b", "c", "d"]},
    )
    print_profile(profile)
    assert capsys.readouterr().out == (
        "model  layer  r2     largest importance\n"
        "toy    1      0.988  d 2, a 0.5, b 0.123\n"
        "toy    12     0.500  d 3, c 0.25, b 1e-05\n"
    )


def test_a_long_profile_says_how_much_more_there_is(capsys):
    profile = xr.Dataset(
        {"importance": (("layer", "feature"), np.ones((5, 2)))},
        {"layer": range(5), "feature": ["a", "b"]},
    )
    for rows, more in ((3, "... and 2 more\n"), (4, "... and 1 more\n"), (5, ""), (6, "")):
        print_profile(profile, rows=rows)
        shown = capsys.readouterr().out
        assert shown.endswith(more) and ("more" in shown) == bool(more)
