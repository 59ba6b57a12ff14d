"""A trainer ends with its launcher and with nobody else; what a user is told to type."""

import errno
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import SCRIPT_ENV

from instruct import processes
from instruct.arguments import parse
from instruct.command.known_errors import sentence_of
from recipes.sft import SFTConfig

TRAINER = """
import os, sys, time
from instruct.processes import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(120)
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]]).wait()
"""


def started(command, **env) -> tuple[subprocess.Popen, psutil.Process]:
    """What was started, and the trainer that it started."""
    process = subprocess.Popen(
        command, env={**SCRIPT_ENV, **env}, stdout=subprocess.PIPE, text=True
    )
    return process, psutil.Process(int(process.stdout.readline()))


def ends_within(trainer: psutil.Process, seconds: float) -> bool:
    try:
        trainer.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_a_trainer_ends_with_its_launcher(tmp_path, name, number):
    (tmp_path / name).write_text(LAUNCHER)
    launcher, trainer = started([sys.executable, str(tmp_path / name), TRAINER])
    launcher.send_signal(number)
    launcher.wait()
    assert ends_within(trainer, 4)


def test_one_that_blocks_the_signal_is_ended_all_the_same(tmp_path):
    (tmp_path / "torchrun").write_text(LAUNCHER)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TRAINER
    launcher, trainer = started([sys.executable, str(tmp_path / "torchrun"), deaf])
    launcher.kill()
    launcher.wait()
    assert ends_within(trainer, processes.GRACE + 3)


@pytest.mark.parametrize(
    ("first", "orphan"),
    [
        (["/sbin/init"], True),
        (["tini", "--", "accelerate", "launch", "sft.py"], True),
        ([], True),
        (["/usr/bin/python3.12", "entrypoint.py"], False),
    ],
)
def test_process_1_is_a_dead_launchers_heir_unless_it_is_python(monkeypatch, first, orphan):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(processes.os, "getppid", lambda: 1)
    monkeypatch.setattr(processes, "command_line", lambda pid: first)
    if orphan:
        with pytest.raises(SystemExit):
            processes.end_with_parent()
    else:
        processes.end_with_parent()


# exported by hand, the launchers' variables say nothing
@pytest.mark.parametrize("env", [{}, {"LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "no"}])
def test_a_trainer_outlives_the_shell_that_started_it(env):
    in_background = f"{sys.executable} -c '{TRAINER}' & sleep 100"
    shell, trainer = started(["bash", "-c", in_background], **env)
    shell.kill()
    shell.wait()
    time.sleep(processes.GRACE + 1)
    assert trainer.is_running()
    trainer.kill()


def test_what_to_type_names_the_launcher_and_no_token(monkeypatch):
    words = ["python", "/bin/accelerate", "launch", "sft.py", "--x", "a b"]
    words += ["--hub_token", "hf_secret", "--hub_token=hf_secret"]
    monkeypatch.setattr(processes, "_launcher", processes.Launcher(pid=1, words=words))
    assert processes.typed() == (
        "python /bin/accelerate launch sft.py --x 'a b' --hub_token HIDDEN --hub_token=HIDDEN"
    )
    # started by something else, the process' own words
    monkeypatch.setattr(processes, "_launcher", None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "data_prep.prompts"])
    assert processes.typed() == "python -m data_prep.prompts"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("--max_new_tokens 5 --max_prompt_tokens=7 --eos_token x",) * 2,
        ("--hub_t hf_x --a", "--hub_t HIDDEN --a"),
        ("--hub-tok=hf_x --a", "--hub-tok=HIDDEN --a"),
        ("--hub_token_type x",) * 2,
        ("--overwrite_output_dir True --a 1", "--a 1"),
        ("--a 1 --overwrite_output_dir --b 2", "--a 1 --b 2"),
        ("--overwrite-output=True --a 1 --overw true", "--a 1"),
        ("--output_dir out --optim x",) * 2,
    ],
)
def test_what_to_type_keeps_every_other_flag(monkeypatch, given, shown):
    monkeypatch.setattr(sys, "orig_argv", ["python", "sft.py", *given.split()])
    assert processes.typed() == f"python sft.py {shown}"


@pytest.mark.parametrize(
    ("words", "launches"),
    [
        (["/v/bin/python", "/v/bin/accelerate", "launch", "recipes/sft.py"], True),
        (["python", "-m", "accelerate.commands.launch", "recipes/sft.py"], True),
        (["python3", "-u", "/v/bin/torchrun", "--nproc_per_node", "2", "sft.py"], True),
        (["python", "-m", "torch.distributed.run", "sft.py"], True),
        (["bash", "recipes/demo.sh"], False),
        (["python", "-X", "dev", "mine.py", "accelerate"], False),
        (["make", "accelerate"], False),
        ([], False),
    ],
)
def test_launchers_by_their_command_line(monkeypatch, words, launches):
    monkeypatch.setattr(processes, "command_line", lambda pid: words)
    assert processes.is_launcher(1) is launches


@pytest.mark.parametrize("more", [[], ["--overwrite_output_dir", "False"]])
def test_what_a_yaml_file_overwrites_is_switched_off_in_what_is_typed(monkeypatch, tmp_path, more):
    """Left out of the line alone, the flag in the file would remove what was just made."""
    file = tmp_path / "run.yaml"
    file.write_text(f"output_dir: {tmp_path}\noverwrite_output_dir: true\n")
    words = ["--config", str(file), *more]
    monkeypatch.setattr(sys, "orig_argv", ["python", "sft.py", *words])
    (parsed,) = parse((SFTConfig,), words)
    assert parsed.overwrite_output_dir is not bool(more)
    assert processes.typed() == f"python sft.py --config {file} --overwrite_output_dir False"
    full = OSError(errno.ENOSPC, "full", "x")
    with_it = "" if more else " with --overwrite_output_dir False"
    assert sentence_of(full).endswith(f"the same command again{with_it}")
    file.write_text(f"output_dir: {tmp_path}\n")
    parse((SFTConfig,), words)
    assert processes.typed() == " ".join(["python sft.py --config", str(file), *more])
    assert "with --overwrite" not in sentence_of(full)
    # typed, and maybe in the file as well
    words = [*words, "--overwrite_output_dir", "True"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "sft.py", *words])
    parse((SFTConfig,), words)
    assert processes.typed() == f"python sft.py --config {file} --overwrite_output_dir False"
