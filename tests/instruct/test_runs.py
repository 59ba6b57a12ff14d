"""A run's start and end: all is on disk before anything is pushed."""

import json
import subprocess
import sys
from types import SimpleNamespace

import accelerate
import pytest
from conftest import REPO, SCRIPT_ENV, write_jsonl

from instruct.errors import UserError
from instruct.runs import already_finished, finish, mark_finished


def test_a_finished_run_is_said_to_be_one(tmp_path, capsys):
    record = {"step": "sft", "base": None}
    args = SimpleNamespace(
        output_dir=str(tmp_path / "run"),
        resume_from_checkpoint=None,
        overwrite_output_dir=False,
        push_to_hub=False,
    )
    assert not already_finished(args, record) and capsys.readouterr().out == ""
    mark_finished(tmp_path / "run")
    assert already_finished(args, record)
    said = capsys.readouterr().out
    assert "holds a finished run; --overwrite_output_dir True trains it again" in said
    assert "has no run.json: nothing is recorded" in said  # of an earlier version


class Recorder:
    """A trainer that writes down what it is asked for; as Trainer does, it pushes when it saves."""

    hub_model_id = "you/name"

    def __init__(self, folder, push_to_hub: bool):
        self.args = SimpleNamespace(
            output_dir=str(folder), push_to_hub=push_to_hub, hub_model_id="you/name"
        )
        self.folder, self.calls = folder, []

    def save_model(self):
        self.calls.append("model")
        if self.args.push_to_hub:
            self.push_to_hub()

    def save_state(self):
        self.calls.append("state")

    def create_model_card(self):
        self.calls.append("card")

    def push_to_hub(self):
        finished = (self.folder / "finished.json").is_file()
        self.calls.append("push, finished" if finished else "push, unfinished")


def test_everything_is_written_before_one_push(tmp_path):
    trainer = Recorder(tmp_path, push_to_hub=True)
    finish(trainer, lambda folder: trainer.calls.append(f"extras in {folder.name}"))
    extras = f"extras in {tmp_path.name}"
    assert trainer.calls == ["model", "state", extras, "card", "push, finished"]
    assert trainer.args.push_to_hub  # as it was asked for


def test_a_push_that_fails_leaves_a_finished_run(tmp_path):
    trainer = Recorder(tmp_path, push_to_hub=True)

    def away():
        raise ConnectionError("the Hub is away")

    trainer.push_to_hub = away
    with pytest.raises(UserError, match="the Hub is away.*; the same command pushes it"):
        finish(trainer)
    assert trainer.calls == ["model", "state", "card"]
    assert (tmp_path / "finished.json").is_file()


def test_only_rank_0_writes_extras_and_nothing_is_pushed_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerate, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", lambda shared: None)
    trainer = Recorder(tmp_path, push_to_hub=False)
    finish(trainer, lambda folder: trainer.calls.append("extras"))
    assert trainer.calls == ["model", "state"] and not (tmp_path / "finished.json").exists()


def test_what_fails_at_the_end_is_told_to_the_other_processes(tmp_path, monkeypatch):
    """They would else wait for the main process at the next thing that all do together."""
    sent = []
    monkeypatch.setattr(
        accelerate.utils, "broadcast_object_list", lambda shared: sent.extend(shared)
    )

    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        finish(Recorder(tmp_path, push_to_hub=True), full)
    assert len(sent) == 1 and "No space left" in sent[0]["error"]
    assert not (tmp_path / "finished.json").exists()


@pytest.mark.parametrize("step", ["sft", "reward"])
def test_no_deprecation_of_a_dependency_reaches_the_terminal(
    step, tmp_path, tiny_model, demonstrations, comparisons
):
    """In a process of its own: pytest has its own filters for warnings."""
    rows = {"sft": demonstrations, "reward": comparisons}[step]
    command = [
        sys.executable, "-m", f"recipes.{step}", "--model_name_or_path", tiny_model,
        "--dataset_name", write_jsonl(tmp_path / "rows.jsonl", rows),
        "--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--report_to", "none",
        "--use_cpu", "--save_strategy", "no",
    ]  # fmt: skip
    command += ["--eval_fraction", "0"] if step == "reward" else []
    done = subprocess.run(
        command, cwd=REPO, env=SCRIPT_ENV, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "finished.json").read_text()) == {"finished": True}
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert not [line for line in warnings if "Future" in line or "Deprecat" in line], warnings
