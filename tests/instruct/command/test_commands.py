"""How a command ends: one sentence, last and once; a bug says that it is one."""

import errno
import io
import subprocess
import sys
from contextlib import redirect_stdout
from types import SimpleNamespace

import httpx
import pytest
import torch
from conftest import REPO, SCRIPT_ENV
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
from tqdm import tqdm

from instruct.command.commands import Parser, command
from instruct.command.known_errors import sentence_of
from instruct.errors import UserError


@command
def fails_with(argv: list, error: BaseException):
    raise error


def ends(error: BaseException, capsys, *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        fails_with(list(argv), error)
    return stop.value.code, capsys.readouterr().err


def test_a_bug_is_one_line_that_says_so_and_how_to_see_its_traceback(capsys):
    code, said = ends(KeyError("x"), capsys)
    assert code == 1 and said.count("\n") == 1
    assert said.startswith("error: a bug of instruct-recipes (KeyError: 'x'); please report it")
    assert said.endswith(" --debug\n")


@pytest.mark.parametrize("error", [UserError("rows.jsonl, line 3"), KeyError("x")])
@pytest.mark.parametrize("flag", [["--debug"], ["--debug", "True"], ["--seed", "1", "--debug"]])
def test_debug_shows_the_traceback_and_the_sentence_after_it(error, flag, capsys):
    code, said = ends(error, capsys, *flag)
    assert code == (2 if isinstance(error, UserError) else 1)
    assert "Traceback" in said and said.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        (["--debug"], []),
        (["--debug", "False", "--a"], ["--a"]),
        (["--debug", "--a"], ["--a"]),
        # Trainer's own flag of that name
        (["--debug", "underflow_overflow"], ["--debug", "underflow_overflow"]),
    ],
)
def test_debug_is_taken_before_a_parser_sees_it(argv, left):
    seen = []
    command(lambda argv: seen.extend(argv))(argv)
    assert seen == left


def test_what_a_row_holds_does_nothing_in_a_sentence(capsys):
    _, said = ends(UserError("row 1: \x1b[2J\u202etxt.exe\n\ud800 \x07"), capsys)
    assert said == r"error: row 1: \x1b[2J\u202etxt.exe \ud800 \x07" + "\n"
    _, said = ends(UserError("a" * 10**6), capsys)
    assert len(said) < 3000


def chained(error: Exception) -> RuntimeError:
    outer = RuntimeError("while loading")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (httpx.ConnectError("refused"), "the Hub cannot be reached"),
        (chained(httpx.ReadTimeout("slow")), "the Hub cannot be reached"),
        (OfflineModeIsEnabled("offline"), "the Hub cannot be reached"),
        (ModuleNotFoundError("No module named 'foo.bar'", name="foo.bar"), "the package foo"),
        (ImportError("Found an incompatible version of torchao. Found 0.1"), "Found an incompat"),
        (RuntimeError("[gloo] Connection closed by peer [::1]"), "another process of this run"),
        (OSError(errno.ENOSPC, "No space left", "/d/o"), "/d/o: no space left"),
        (ValueError("embedded null byte"), "a path or a name holds a NUL"),
        (ValueError("Target module RMSNorm() is not supported."), "--lora_target_modules: "),
        (KeyError("The `metric_for_best_model` is not there"), "The `metric_for_best_model`"),
    ],
)
def test_errors_of_libraries_that_a_user_can_change(error, sentence, capsys):
    code, said = ends(error, capsys)
    assert code == 2 and said.startswith(f"error: {sentence}") and said.count("\n") == 1


def test_a_gated_repository_asks_for_a_token():
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub/x"))
    try:
        error = GatedRepoError("403 Client Error: gated", response=response)
    except (TypeError, AttributeError):  # of another HTTP library
        pytest.skip("this client stands on another library")
    assert "HF_TOKEN" in sentence_of(error)


def test_a_flag_that_a_librarys_trainer_refuses_is_the_users(tiny_model, capsys):
    from recipes import sft

    @command
    def makes_one(argv):
        sft.SFTTrainer(tiny_model, args=sft.SFTConfig("out", report_to="none"), train_dataset=None)

    with pytest.raises(SystemExit) as stop:
        makes_one([])
    assert stop.value.code == 2 and "train_dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("shapes"), ModuleNotFoundError("x", name="instruct.x")]
)
def test_what_nobody_knows_is_a_bug(error):
    assert sentence_of(error) is None


@pytest.mark.parametrize(
    "error",
    [
        # of a package that is there
        ModuleNotFoundError("No module named 'transformers.nope'", name="transformers.nope"),
        RuntimeError("a row says: pip install x"),
        RuntimeError("a row says: errno 13"),
        ValueError("a row says: os error 28"),
    ],
)
def test_words_alone_make_no_error_the_users(error, capsys):
    assert ends(error, capsys)[0] == 1


def test_a_package_that_a_librarys_logger_misses_is_the_users(capsys):
    where = {}
    source = "def log(): raise RuntimeError('X needs x. Run `pip install x`')"
    exec(compile(source, "/site-packages/transformers/integrations.py", "exec"), where)
    with pytest.raises(SystemExit) as stop:
        command(lambda argv: where["log"]())([])
    assert stop.value.code == 2 and "pip install x" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "said"), [(503, "later"), (429, "later"), (403, "HF_TOKEN")])
def test_a_hub_in_trouble_is_told_from_one_that_refuses(status, said):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"{status} of the Hub")
    error.response = SimpleNamespace(status_code=status)
    assert said in sentence_of(error)


def test_a_wrong_flag_is_one_sentence_without_usage(capsys):
    @command
    def main(argv):
        parser = Parser(description="x")
        parser.add_argument("--num_outputs", type=int)
        parser.parse_args(argv)

    for argv in (["--num_outputs", "0"], ["--num_outputs", "x"], ["--nope"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


################
# Under a launcher
################

FAILS = """
import os, sys, time
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.processes import end_with_parent
@command
def main(argv=None):
    end_with_parent()
    how, rank = sys.argv[1], os.environ.get("RANK", "0")
    if how == "all" or rank == how:
        raise UserError(f"row 3 is wrong, says {rank}")
    if how == "bug":
        raise KeyError("x")
    time.sleep(60)
main()
"""


def launched(config: str, tmp_path, *words: str) -> tuple[int, list[str]]:
    """Exit code and lines of what accelerate launch, and all it started, wrote to one file."""
    (tmp_path / "fails.py").write_text(FAILS)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    words = [*launch, str(REPO / "accelerate_configs" / config), str(tmp_path / "fails.py"), *words]
    with (tmp_path / "log").open("wb") as log:
        code = subprocess.run(
            words, env=SCRIPT_ENV, stdout=log, stderr=log, timeout=120, check=False
        ).returncode
    # at once: whoever reads the log when the launcher is gone finds the sentence
    return code, (tmp_path / "log").read_text().splitlines()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize(
    ("config", "how", "sentence"),
    [
        ("cpu.yaml", "all", "error: row 3 is wrong, says 0"),
        ("cpu.yaml", "bug", "error: a bug of instruct-recipes (KeyError: 'x')"),
        ("cpu_x2.yaml", "all", "error: row 3 is wrong, says 0"),
        ("cpu_x2.yaml", "1", "error: row 3 is wrong, says 1"),
        ("cpu_x2.yaml", "bug", "error: a bug of instruct-recipes (KeyError: 'x')"),
    ],
)
def test_under_a_launcher_the_sentence_comes_last_and_once(config, how, sentence, tmp_path):
    code, lines = launched(config, tmp_path, how)
    assert code != 0 and lines[-1].startswith(sentence)
    assert sum(line.startswith("error:") for line in lines) == 1
    assert not any("Traceback" in line for line in lines)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_launcher_that_restarts_what_fails_is_left_alone(tmp_path):
    (tmp_path / "fails.py").write_text(
        FAILS.replace('how == "bug"', 'os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"')
        .replace("    time.sleep(60)\n", '    print("went on")\n')
    )  # fmt: skip
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    words += ["--max_restarts", "1", "--monitor_interval", "0.1", str(tmp_path / "fails.py"), "no"]
    done = subprocess.run(
        [sys.executable, *words], env=SCRIPT_ENV, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "went on" in done.stdout
    assert done.stderr.count("error: a bug of instruct-recipes") == 1


def test_what_is_printed_does_nothing_to_a_terminal(capsys):
    @command
    def tells(argv: list):
        print("rows\x1b[31m\u202e.jsonl \udcff", "a\tb")
        print("10 %\r20 %")
        with redirect_stdout(io.StringIO()) as kept:
            print("\x1b")
        assert kept.getvalue() == "\x1b\n" and sys.stdout.isatty() is False

    was = sys.stdout
    tells([])
    assert capsys.readouterr().out == "rows\\x1b[31m\\u202e.jsonl \\udcff a\tb\n10 %\r20 %\n"
    assert sys.stdout is was


@pytest.mark.parametrize("error", [UserError("rows.jsonl, line 3"), KeyboardInterrupt()])
def test_a_bar_is_not_drawn_after_the_last_sentence(error, capsys):
    bar = tqdm(total=4)
    bar.update(1)
    _, said = ends(error, capsys)
    assert said.splitlines()[-1].startswith(("error: rows.jsonl", "stopped"))
    bar.close()
    assert not capsys.readouterr().err
