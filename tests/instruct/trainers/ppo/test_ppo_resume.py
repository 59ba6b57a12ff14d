"""A PPO run that was interrupted, wherever, ends with bit for bit what it would have been."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import SCRIPT_ENV, TESTS
from ppo_tools import ROLLOUT_TIMES, flags, make_setup
from transformers import TrainerCallback

from instruct.run.checkpoints import whole_checkpoints
from recipes import ppo
from recipes.ppo import cli

RUN = {
    "total_episodes": 32,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "sample_every": 1,
    "kl_target": 0.01,
    "kl_horizon": 20,
    "lr_scheduler_type": "cosine",
    "ema_decay": 0.9,
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def uninterrupted(setup, value_model: str, folder: Path) -> tuple[dict, Path]:
    """Settings of a run of 4 rollouts, and the folder of one that was never interrupted."""
    settings = {**RUN, "value_model": value_model}
    cli(flags(setup, folder / "out", **settings))
    return settings, folder / "out"


@pytest.fixture(scope="module", params=["adapter", "head"])
def whole_run(request, setup, tmp_path_factory):
    return uninterrupted(setup, request.param, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", params=["adapter", pytest.param("head", marks=pytest.mark.slow)])
def killed_run(request, setup, tmp_path_factory):
    return uninterrupted(setup, request.param, tmp_path_factory.mktemp("killed"))


def log_of(folder: Path) -> list[dict]:
    """The log without times (and without Trainer's closing line, whose mean loss covers one
    session).
    """
    lines = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [
        {k: v for k, v in line.items() if k not in ROLLOUT_TIMES}
        for line in lines
        if "train_loss" not in line
    ]


def assert_same_run(out: Path, whole: Path) -> None:
    """Policy, value, heads, average, optimizer, scheduler, KL controller, RNG, log and samples: the
    same bits.
    """
    for name in ("adapter_model.safetensors", "value/value_head.safetensors", "samples.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    last = whole_checkpoints(whole)[-1].name
    names = [
        "adapter_model.safetensors",
        "value/value_head.safetensors",
        "ema.safetensors",
        "ppo_state.json",
    ]
    if (whole / "value" / "adapter_model.safetensors").is_file():
        names.append("value/adapter_model.safetensors")
    for name in names:
        assert (out / last / name).read_bytes() == (whole / last / name).read_bytes(), name
    for name in ("optimizer.pt", "scheduler.pt"):
        a, b = (torch.load(folder / last / name, weights_only=True) for folder in (out, whole))
        assert _flat(a) == _flat(b), name
    assert log_of(out) == log_of(whole)


def _flat(value) -> list:
    if isinstance(value, dict):
        return [x for k in sorted(value, key=str) for x in [str(k), *_flat(value[k])]]
    if isinstance(value, (list, tuple)):
        return [x for v in value for x in _flat(v)]
    return (
        value.tolist()
        if isinstance(value, torch.Tensor) and value.dim()
        else [float(value) if isinstance(value, torch.Tensor) else value]
    )


class Interrupted(BaseException):
    """No `Exception`: a command turns those into its last line."""


def interrupt_at(monkeypatch, step: int):
    """Makes the recipe's trainer stop with an exception at this optimizer step."""

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Interrupted

    original = ppo.SharedBasePPOTrainer
    monkeypatch.setattr(
        ppo, "SharedBasePPOTrainer", lambda **kwargs: original(**kwargs, callbacks=[Interrupt()])
    )


@pytest.mark.parametrize("step", [4, 5])
def test_two_and_two_rollouts_are_four(setup, whole_run, tmp_path, monkeypatch, step):
    """Stopped between rollouts (step 4 of 8) and in the middle of one's updates (step 5)."""
    settings, whole = whole_run
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, step)
        cli(flags(setup, tmp_path, **settings))
    assert whole_checkpoints(tmp_path)[-1].name == "checkpoint-4"
    cli(flags(setup, tmp_path, **settings))
    assert_same_run(tmp_path, whole)


def test_killed_while_saving_the_last_whole_checkpoint_serves(setup, whole_run, tmp_path):
    settings, whole = whole_run
    shutil.copytree(whole, tmp_path / "out")
    out = tmp_path / "out"
    (out / "finished.json").unlink()
    state = out / "checkpoint-8" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:200])  # cut while it was written
    (out / "checkpoint-6" / "trainer_state.json").unlink()  # not yet written
    (out / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    cli(flags(setup, out, **settings))
    assert_same_run(out, whole)


def test_resume_from_a_named_checkpoint(setup, whole_run, tmp_path, capsys):
    settings, whole = whole_run
    cli(flags(setup, tmp_path / "out", resume_from_checkpoint=whole / "checkpoint-6", **settings))
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == (
        whole / "adapter_model.safetensors"
    ).read_bytes()
    with pytest.raises(SystemExit):
        cli(
            flags(
                setup, tmp_path / "other", resume_from_checkpoint=whole / "checkpoint-7", **settings
            )
        )
    assert "no whole checkpoint there" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli(
            flags(
                setup,
                tmp_path / "third",
                resume_from_checkpoint=whole / "checkpoint-2",
                **{**settings, "num_ppo_epochs": 3},
            )
        )
    assert "in the middle of a rollout" in capsys.readouterr().err


def test_full_fine_tuning_resumes(setup, tmp_path, monkeypatch):
    settings = {
        "use_peft": False,
        "total_episodes": 16,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 1e-4,
    }
    cli(flags(setup, tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 3)
        cli(flags(setup, tmp_path / "out", **settings))
    cli(flags(setup, tmp_path / "out", **settings))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_ptx_resumes(setup, tmp_path, monkeypatch):
    rows = tmp_path / "ptx.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"Line {i} of plain text."}) + "\n" for i in range(9))
    )
    settings = {"ptx_dataset": rows, "ptx_coef": 1.0, "save_strategy": "steps", "save_steps": 2}
    cli(flags(setup, tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 3)
        cli(flags(setup, tmp_path / "out", **settings))
    cli(flags(setup, tmp_path / "out", **settings))
    same = "adapter_model.safetensors"
    assert (tmp_path / "out" / same).read_bytes() == (tmp_path / "whole" / same).read_bytes()
    assert all(
        line["loss/ptx_avg"] > 1 for line in log_of(tmp_path / "out") if "objective/kl" in line
    )


def kill_and_compare(setup, killed_run, out: Path, delays: list[float]) -> list[dict]:
    settings, whole = killed_run
    command = [
        sys.executable,
        str(TESTS / "ppo_kill.py"),
        json.dumps(flags(setup, out, **settings)),
        json.dumps(delays),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        env=SCRIPT_ENV,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads(done.stdout.strip().splitlines()[-1])
    assert ended[-1]["exit"] == 0 and all(e["exit"] in (0, -9) for e in ended), (
        ended,
        done.stderr[-2000:],
    )
    assert_same_run(out, whole)
    return ended


def seconds_of_a_run(setup, killed_run, tmp_path) -> float:
    start = time.perf_counter()
    cli(flags(setup, tmp_path / "timed", **killed_run[0]))
    return time.perf_counter() - start


def test_killed_at_random_moments(setup, killed_run, tmp_path):
    """SIGKILL twice, somewhere in the run (the moments differ from run to run of this test)."""
    seconds = seconds_of_a_run(setup, killed_run, tmp_path)
    ended = kill_and_compare(
        setup, killed_run, tmp_path / "out", [random.uniform(0.3, 0.8) * seconds for _ in range(2)]
    )
    assert -9 in [e["exit"] for e in ended]


@pytest.mark.slow
def test_killed_at_many_random_moments(setup, killed_run, tmp_path):
    """At least ten kills in runs of 4 rollouts, at moments spread over the whole run, saving
    included.
    """
    seconds, kills, number = seconds_of_a_run(setup, killed_run, tmp_path), 0, 0
    while kills < 12:
        number += 1
        delays = [random.uniform(0.1, 0.9) * seconds for _ in range(4)]
        ended = kill_and_compare(setup, killed_run, tmp_path / f"out{number}", delays)
        kills += sum(e["exit"] == -9 for e in ended)
        assert number < 20
