"""Tests the readers of config.json and sweep.json, and the conversion of their settings."""

import json
from pathlib import Path
from typing import Literal

import pytest

from ncfast.cli import main
from ncfast.experiments import run_dir, sweep_file
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.experiments.stored_types import convert
from ncfast.experiments.sweep_config import SweepConfig


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (-(2**63), int, -(2**63)),
        (3, float, 3.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("a", str, "a"),
        ("a/b", Path, Path("a/b")),
        (None, Path | None, None),
        ("a", Path | None, Path("a")),
        (7, int | None, 7),
        ([], tuple[int, ...], ()),
        ([1, 2.5], tuple[float, ...], (1.0, 2.5)),
        (["mse", "ce"], tuple[Literal["mse", "ce"], ...], ("mse", "ce")),
    ],
)
def test_values_of_the_right_type(value, hint, expected):
    found = convert(value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "an integer of 64 bits"),
        (2**63, int, "an integer of 64 bits"),
        (1.0, int, "an integer of 64 bits"),
        ("1", float, "a number"),
        (10**400, float, "a number"),
        (True, float, "a number"),
        (1, bool, "true or false"),
        (None, str, "text"),
        ("a\0b", Path, "a path"),
        ([], Path | None, "a path or null"),
        ("sgd", Literal["mse", "ce"], "one of mse, ce"),
        ([[]], Literal["mse", "ce"], "one of mse, ce"),
        (3, tuple[int, ...], "a list"),
        ([3, "4"], tuple[int, ...], "a list, each an integer of 64 bits"),
        ({}, tuple[int, ...], "a list"),
    ],
)
def test_values_of_another_type(value, hint, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        convert(value, hint)


def a_config(folder, change=lambda content: content):
    folder.mkdir(exist_ok=True)
    run_dir.write_config(TrainConfig(out=folder, widths=(8,)))
    path = folder / run_dir.CONFIG
    content = json.loads(path.read_text())
    path.write_text(change(content) or json.dumps(content))
    return folder


def test_settings_survive_the_file(tmp_path):
    config = TrainConfig(out=tmp_path, widths=(8,), sigma=(0.1, 1.0), data_dir=tmp_path, lr=1e-4)
    run_dir.write_config(config)
    assert run_dir.load_settings(tmp_path) == config


def test_absent_settings_have_their_defaults_and_unknown_ones_are_ignored(tmp_path):
    """Another version of ncfast may have written the file."""

    def change(content):
        del content["settings"]["momentum"], content["conventions"]
        content["settings"]["later"] = 3
        content["later"] = [1]

    config = run_dir.load_config(a_config(tmp_path, change))
    assert config["settings"]["momentum"] == 0.0
    assert config["conventions"] == {}


def setting(name, value):
    return lambda content: content["settings"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("steps", "60"), "`steps` to be an integer of 64 bits but got '60'"),
        (setting("steps", -3), "`steps` to be positive"),
        (setting("widths", 8), "`widths` to be a list but got 8"),
        (setting("widths", []), "`widths` to be positive sizes"),
        (setting("weight_decay", float("nan")), "`weight_decay` to be zero or more but got nan"),
        (setting("loss", "hinge"), "`loss` to be one of mse, ce but got 'hinge'"),
        (setting("schedule", "log:99999999"), "`points` of 2 to 1,000,000"),
        (setting("schedule", "every:" + "9" * 5000), "Expected a schedule"),
        (setting("penalty_from", "9" * 5000), "`penalty_from` to be 'fit' or a step"),
        (
            setting("sigma", [0.1, None]),
            "`sigma` to be a list, each a number but got",
        ),
        (setting("seed", 2**64), "`seed` to be an integer of 64 bits"),
        (lambda c: c.pop("settings"), "expected 'settings' to be an object but got None"),
        (lambda c: c.update(versions=[1]), r"'versions' to be an object of texts but got \[1\]"),
        (lambda c: c.update(conventions={"a": 1}), "'conventions' to be an object of texts"),
        (lambda c: "[]", "the file is no JSON object"),
        (lambda c: '{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (lambda c: '{"settings": {"device": "\\ud800"}}', "it holds half of a character"),
        (lambda c: "[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path, change, message, capsys):
    folder = a_config(tmp_path / "run", lambda content: _text(change(content)))
    for command in (["report", str(folder)], ["train", "--out", str(folder), "--resume"]):
        assert main(command) == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert line.startswith(f"ncfast: {folder / 'config.json'}: ")
        assert ". Restore the file, or start again in another directory." in line
    with pytest.raises(RunDirectoryError, match=message):
        run_dir.load_config(folder)


def _text(changed):
    return changed if isinstance(changed, str) else None


def a_sweep(folder, **changes):
    config = SweepConfig(out=folder, weight_decay=(0.3, 0.1))
    sweep_file.prepare(config, list(config.replicas()))
    path = folder / sweep_file.SWEEP
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return config


@pytest.mark.parametrize(
    "names", [None, [], "wd0.3-seed42", [3], [".."], ["a/b"], ["/etc"], [""], ["a\0"], ["x" * 300]]
)
def test_replicas_are_folders_of_the_sweep(tmp_path, names):
    a_sweep(tmp_path / "sweep", replicas=names)
    with pytest.raises(RunDirectoryError, match=r"sweep\.json: expected 'replicas' to be a list"):
        sweep_file.load_sweep(tmp_path / "sweep")


def test_replicas_must_be_those_of_the_settings(tmp_path):
    config = a_sweep(tmp_path / "sweep", replicas=["wd0.3-seed42"])
    with pytest.raises(RunDirectoryError, match=r"'replicas' to be \['wd0.3-seed42', 'wd0.1-seed"):
        sweep_file.check_same_sweep(config, list(config.replicas()))


def test_a_sweep_of_too_many_replicas(tmp_path):
    with pytest.raises(ValueError, match="at most 100,000 replicas but got 2,000,000"):
        SweepConfig(out=tmp_path, weight_decay=(0.3, 0.1), seeds=1_000_000)
