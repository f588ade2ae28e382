"""Tests the ``ncfast`` command: exit status, one-line errors, interrupts and closed pipes."""

import builtins
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

import ncfast
from ncfast import _interrupt, cli
from ncfast.benchmarks.operations import OPERATIONS
from ncfast.experiments.training.progress import Progress


def test_train_then_report(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "--dataset", "digits", "--model", "mlp", "--loss", "mse"]
    arguments += ["--weight-decay", "0.1", "--init-scale", "8", "--train-size", "100"]
    arguments += ["--steps", "30", "--seed", "1", "--widths", "16", "16", "--out", str(out)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == f"Report: {out / 'report.html'}"
    lines = [line for line in captured.err.splitlines() if line.startswith("step ")]
    assert len(lines) == 31, "one line a log point when not on a terminal"
    assert lines[-1].split()[:2] == ["step", "30/30"]
    assert all(word in lines[-1] for word in ("train", "test", "rnc1"))
    assert cli.main(["report", str(out), "--out", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "report.html").exists()
    capsys.readouterr()
    assert cli.main(["report", str(out), "--watch"]) == 0, "a run that has ended is not waited for"
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == shown[-1] == str(out / "report.html")
    assert cli.main(arguments) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_long_run_prints_few_lines(capsys):
    progress = Progress(0, 15_000)
    for step in range(0, 15_001, 10):
        progress.record({"step": step, "test/accuracy": step / 15_000})
    lines = capsys.readouterr().err.splitlines()
    assert 45 < len(lines) < 55
    assert lines[0].startswith("step 0/")
    assert lines[-1] == "step 15000/15000  test 1.000"


def test_a_terminal_gets_a_live_bar(tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    options = ["--widths", "8", "--steps", "300", "--schedule", "every:10", "--out", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, "-m", "ncfast", "train", *options], stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    try:
        while part := os.read(master, 4096):
            seen += part
    except OSError:  # how Linux reports a closed pipe
        pass
    os.close(master)
    assert running.wait() == 0
    bar = [line for line in seen.decode().split("\r") if "300/300" in line][-1]
    assert all(word in bar for word in ("train=", "test=", "rnc1=", "step/s"))


def test_info_names_versions_and_reasons(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert ncfast.__version__ in text
    for name, status in ncfast.backends().items():
        assert f"backend {name}" in text
        assert status.reason in text
    assert f"threads: {torch.get_num_threads()}\n" in text


def test_info_works_without_the_extras(capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in ("tyro", "tqdm", "sklearn", "matplotlib", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    for module in ("ncfast.experiments.config", "tyro"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    assert cli.main(["info"]) == 0
    assert cli.main(["train", "--out", "x"]) == 1
    assert "This command needs more packages: pip install 'ncfast[experiments]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help_lists_the_commands(capsys, arguments, status):
    assert cli.main(arguments) == status
    text = capsys.readouterr().out
    assert all(name in text for name in ("train", "report", "info"))


def test_an_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err


def test_an_unknown_dataset_directory(tmp_path, capsys):
    arguments = ["train", "--dataset", "mnist", "--data-dir", str(tmp_path), "--out", "run"]
    assert cli.main(arguments) == 1
    assert "train-images-idx3-ubyte.gz: no such file" in capsys.readouterr().err


def test_resume_needs_no_settings_and_refuses_others(tmp_path, capsys):
    out = str(tmp_path / "run")
    settings = ["--widths", "8", "--weight-decay", "0.2", "--schedule", "every:5"]
    assert cli.main(["train", "--steps", "10", "--out", out, *settings]) == 0
    assert cli.main(["train", "--out", out, "--resume", "--steps", "20"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--out", out, "--resume", "--weight-decay", "0.3"]) == 1
    assert "weight_decay was 0.2 and is 0.3" in capsys.readouterr().err
    assert cli.main(["train", "--out", str(tmp_path), "--resume"]) == 1
    assert "config.json is missing" in capsys.readouterr().err


def command(*arguments, module=True):
    """The command line: the module, or the script next to the interpreter."""
    start = [sys.executable, "-m", "ncfast"] if module else [Path(sys.executable).parent / "ncfast"]
    return [*start, *arguments]


@pytest.mark.parametrize("arguments", [["info"], ["train", "--help"]])
def test_a_pipe_that_closes_early(arguments):
    """`ncfast ... | true` prints nothing and exits like a process killed by SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command(*arguments), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("module", [True, False])
def test_ctrl_c_while_torch_is_imported(module, tmp_path):
    """Ctrl-C prints one line and exits with 130, even before the command has started."""
    # a stand-in for torch whose import reports its start and never ends
    (tmp_path / "torch.py").write_text(
        "import sys, time\nprint('begun', flush=True)\ntime.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    if not module and not Path(command(module=False)[0]).exists():
        pytest.skip("the script is not installed")
    running = subprocess.Popen(
        command("info", module=module),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # background jobs of a shell ignore it, and the tests may be one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout.readline() == b"begun\n"
    running.send_signal(signal.SIGINT)
    assert running.communicate()[1] == b"ncfast: interrupted\n"
    assert running.returncode == 130


def test_ctrl_c_in_an_import_that_makes_another_error_of_it(capsys, monkeypatch):
    """An ImportError that an interrupt caused in an extension is reported as an interrupt."""

    def importing(arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(_interrupt, "is_command", lambda: True)
    monkeypatch.setitem(cli.COMMANDS, "info", importing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt.quit_at_once()
        assert cli.main(["info"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "ncfast: interrupted\n"


def test_other_programs_keep_their_ctrl_c():
    """`import ncfast` changes no signal handler."""
    assert not _interrupt.is_command()
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)


NUMBERS = {
    "train": "lr init-scale weight-decay momentum steps batch-size checkpoint-every patch-size "
    "widths train-size seed sigma information",
    "sweep": "lr init-scale weight-decay momentum sigma seeds group-size information train-size "
    "seed",
    "bench": "threads seconds cases",
}


@pytest.mark.parametrize("bad", ["inf", "nan", "-inf", "-1", str(-(10**30))])
@pytest.mark.parametrize(("name", "option"), [(n, o) for n in NUMBERS for o in NUMBERS[n].split()])
def test_numbers_that_cannot_be(capsys, tmp_path, name, option, bad):
    """An invalid number gives one line that names the option, and no files."""
    if option == "seed" and bad == "-1":
        bad = "1e3"  # torch accepts -1 as a seed
    out = ["--quick"] if name == "bench" else ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        cli.main([name, *out, f"--{option}", bad])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(f"ncfast {name}: ")
    assert f"--{option}" in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "Missing from ncfast train: --out PATH"),
        (["train", "--out", "x", "--lrr", "1"], "Unrecognized options: --lrr, 1; Perhaps you mean"),
        (["train", "--out", "x", "--lr", "fast"], "Error parsing --lr"),
        (["train", "--out", "x", "--model", "mlq"], "invalid choice 'mlq' for argument '--model'"),
        (["bench"], "Expected --out, the JSON file to write"),
    ],
)
def test_mistakes_in_options_are_one_line(capsys, arguments, said):
    """A wrong option gives one line with the mistake and the help command, and status 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert said in error
    assert error.endswith(f"(ncfast {arguments[0]} --help)\n")
    assert error.count("\n") == 1


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ncfast {ncfast.__version__}\n"


def test_help_without_the_extras(capsys, monkeypatch):
    """Without the extras, help succeeds and names what must be installed."""
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "ncfast.experiments.config", raising=False)
    assert cli.main(["train", "--help"]) == 0
    said = capsys.readouterr()
    assert "usage: ncfast train" in said.out
    assert "pip install 'ncfast[experiments]'" in said.out
    assert said.err == ""


def test_the_help_of_bench_names_every_operation(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "--help"])
    words = capsys.readouterr().out.replace("│", " ").replace(",", " ").split()
    assert {*OPERATIONS} <= {word.rstrip(".") for word in words}


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_resuming_to_a_step_that_is_past(tmp_path, capsys, command):
    """Resuming with fewer steps than were made is refused, and no file changes."""
    out = tmp_path / "run"
    small = ["--widths", "8", "--information", "0", "--schedule", "log:3"]
    assert cli.main([command, "--out", str(out), "--steps", "12", *small]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main([command, "--out", str(out), "--resume", "--steps", "5"]) == 1
    said = capsys.readouterr().err
    assert "is at step 12, past --steps 5. Nothing was changed." in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
