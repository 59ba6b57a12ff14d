"""Which checkpoints are whole, where a run continues, and how checkpoints are deleted."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from instruct.errors import UserError
from instruct.run import checkpoints
from instruct.run.checkpoints import (
    CARRIED,
    checkpoint_to_resume,
    discard,
    finish_deletions,
    had_stopped,
    is_whole,
    keep_only,
    rotate,
    seal,
    what_is_wrong,
    whole_checkpoints,
)


def arguments(folder, resume_from_checkpoint=None, load_best_model_at_end=False):
    return SimpleNamespace(
        output_dir=str(folder),
        resume_from_checkpoint=resume_from_checkpoint,
        load_best_model_at_end=load_best_model_at_end,
    )


def make_checkpoint(folder: Path, step, sealed: bool = True, **state) -> str:
    """What Trainer writes for a LoRA adapter; not `sealed`: by an earlier version."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"lora": torch.ones(8)}, checkpoint / "adapter_model.safetensors")
    (checkpoint / "adapter_config.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(8)}, checkpoint / name)
    state = {"global_step": step, "max_steps": 120, **state}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    if sealed:
        (checkpoint / CARRIED).write_text("{}")
        seal(checkpoint)
    return str(checkpoint)


PARTS = [
    "adapter_model.safetensors",
    "adapter_config.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
]


def damage(file: Path, how: str) -> None:
    size = file.stat().st_size
    if how == "removed":
        file.unlink()
    elif how == "folder":
        file.unlink()
        file.mkdir()
    else:
        content = {
            "empty": b"",
            "truncated": file.read_bytes()[: size // 2],
            "zeroed": bytes(size),
            "garbage": os.urandom(size),
        }[how]
        file.write_bytes(content)


################
# Where to continue
################


def test_the_newest_whole_checkpoint_is_continued_and_said(tmp_path, capsys):
    assert checkpoint_to_resume(arguments(tmp_path / "nowhere")) is None
    assert capsys.readouterr().out == ""
    make_checkpoint(tmp_path, 9)
    newest = make_checkpoint(tmp_path, 10)  # 10 after 9, not "10" before "9"
    cut_off = tmp_path / "checkpoint-11"
    cut_off.mkdir()
    (cut_off / CARRIED).write_text("{}")
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoint_to_resume(arguments(tmp_path)) == newest
    assert capsys.readouterr().out.splitlines() == [
        "skipping checkpoint-11: files.json is missing, which is written last",
        "continuing from checkpoint-10 of 120",
    ]
    assert checkpoint_to_resume(arguments(tmp_path, "true")) == newest
    assert checkpoint_to_resume(arguments(tmp_path, "False")) is None


def test_a_checkpoint_that_is_asked_for_must_be_whole(tmp_path):
    other = make_checkpoint(tmp_path, 3)
    assert checkpoint_to_resume(arguments(tmp_path / "new", other)) == other
    nowhere = str(tmp_path / "checkpoint-4")
    with pytest.raises(UserError, match="checkpoint-4: no whole checkpoint there: no such folder"):
        checkpoint_to_resume(arguments(tmp_path, nowhere))
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_bytes(b"0123456789")
    with pytest.raises(UserError, match="optimizer.pt has 10 bytes, [0-9,]+ were written"):
        checkpoint_to_resume(arguments(tmp_path, other))


def test_no_whole_checkpoint_is_a_start_at_step_0_and_said(tmp_path, capsys):
    (Path(make_checkpoint(tmp_path, 4)) / "scheduler.pt").unlink()
    assert checkpoint_to_resume(arguments(tmp_path)) is None
    assert capsys.readouterr().out.splitlines() == [
        "skipping checkpoint-4: scheduler.pt is missing",
        f"{tmp_path} has no whole checkpoint: starting at step 0",
    ]


def test_a_checkpoint_whose_best_one_is_damaged_would_end_in_another_model(tmp_path, capsys):
    first = make_checkpoint(tmp_path, 2)
    best = make_checkpoint(tmp_path, 4, best_model_checkpoint="outputs/moved/checkpoint-4")
    last = make_checkpoint(tmp_path, 6, best_model_checkpoint="outputs/moved/checkpoint-4")
    # looked for by name: the run's folder may have been moved
    assert checkpoint_to_resume(arguments(tmp_path, load_best_model_at_end=True)) == last
    damage(Path(best) / "adapter_model.safetensors", "zeroed")
    capsys.readouterr()
    assert checkpoint_to_resume(arguments(tmp_path, load_best_model_at_end=True)) == first
    assert "its best checkpoint, checkpoint-4, is not whole" in capsys.readouterr().out
    assert checkpoint_to_resume(arguments(tmp_path)) == last  # where no best one is asked for


def test_what_a_checkpoint_does_not_hold_is_said(tmp_path, capsys):
    checkpoint = Path(make_checkpoint(tmp_path, 5, sealed=False))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    # an earlier version's, damaged ...
    assert what_is_wrong(checkpoint) == "no optimizer state there"
    # ... and one of `--save_only_model`
    seal(checkpoint)
    assert checkpoint_to_resume(arguments(tmp_path)) == str(checkpoint)
    said = "checkpoint-5 has no optimizer state, no scheduler state, no RNG state: these start anew"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "saved_end", "stopped", "end_now", "expected"),
    [
        (6, 6, True, 6, True),  # at its end
        (6, 6, True, 9, False),  # the end has been moved
        (4, 6, True, 6, True),  # stopped early
        (4, 6, False, 6, False),
    ],
)
def test_a_run_that_had_stopped_makes_no_further_step(
    tmp_path, step, saved_end, stopped, end_now, expected
):
    control = {"TrainerControl": {"args": {"should_training_stop": stopped}}}
    folder = make_checkpoint(tmp_path, step, max_steps=saved_end, stateful_callbacks=control)
    assert had_stopped(Path(folder), end_now) is expected


################
# Whole or not
################


@pytest.mark.parametrize("how", ["removed", "folder", "empty", "truncated", "zeroed", "garbage"])
@pytest.mark.parametrize("name", [*PARTS, "files.json", CARRIED])
def test_no_damage_to_any_file_goes_unseen(tmp_path, name, how, capsys):
    older, newer = make_checkpoint(tmp_path, 4), make_checkpoint(tmp_path, 8)
    if name == "adapter_config.json" and how in ("zeroed", "garbage"):
        assert (Path(newer) / name).stat().st_size == 2  # right size, other bytes
    damage(Path(newer) / name, how)
    assert checkpoint_to_resume(arguments(tmp_path)) == older
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"skipping checkpoint-8: {name} ")
    assert said[1:] == ["continuing from checkpoint-4 of 120"]


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"files": 3}', '{"files": {"a": 3}}', "null"])
def test_any_json_may_stand_in_a_damaged_manifest(tmp_path, manifest):
    checkpoint = Path(make_checkpoint(tmp_path, 8))
    (checkpoint / "a").write_text("x")
    (checkpoint / "files.json").write_text(manifest)
    assert what_is_wrong(checkpoint) == "files.json is damaged"


def test_a_large_file_is_kept_by_its_size_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "HASHED_BELOW", 100)
    checkpoint = Path(make_checkpoint(tmp_path, 8))
    assert is_whole(checkpoint)
    known = json.loads((checkpoint / "files.json").read_text())["files"]
    assert "sha256" in known["adapter_config.json"] and "sha256" not in known["optimizer.pt"]
    damage(checkpoint / "optimizer.pt", "truncated")
    assert "were written" in what_is_wrong(checkpoint)


def test_checkpoints_of_an_earlier_version_are_opened_instead(tmp_path):
    for step in (2, 4, 6):
        assert is_whole(Path(make_checkpoint(tmp_path, step, sealed=False)))
    assert [folder.name for folder in whole_checkpoints(tmp_path)] == [
        f"checkpoint-{step}" for step in (2, 4, 6)
    ]
    needed = ["ppo_state.json"]
    assert what_is_wrong(tmp_path / "checkpoint-2", needed) == "ppo_state.json is missing"


@pytest.mark.parametrize("how", ["removed", "folder", "empty", "truncated", "zeroed"])
@pytest.mark.parametrize("name", [name for name in PARTS if name != "adapter_config.json"])
def test_damage_to_a_checkpoint_of_an_earlier_version(tmp_path, name, how):
    checkpoint = Path(make_checkpoint(tmp_path, 8, sealed=False))
    damage(checkpoint / name, how)
    assert what_is_wrong(checkpoint) is not None


def test_bytes_changed_inside_an_earlier_version_s_optimizer_are_seen(tmp_path):
    file = Path(make_checkpoint(tmp_path, 8, sealed=False)) / "optimizer.pt"
    ones = torch.ones(8).numpy().tobytes()
    content = file.read_bytes()
    assert content.count(ones) == 1
    file.write_bytes(content.replace(ones, bytes(len(ones))))
    assert what_is_wrong(file.parent) == "optimizer.pt is damaged"


################
# Deletion
################


def test_rotation_goes_by_step_and_keeps_the_best(tmp_path):
    for step in (2, 9, 10, 40):
        make_checkpoint(tmp_path, step)
    for step in (2, 9):  # copied later than the others were written
        os.utime(tmp_path / f"checkpoint-{step}", (4e9, 4e9))
    make_checkpoint(tmp_path, 80)  # of an earlier attempt that came further
    rotate(tmp_path, None, newest=40)
    rotate(tmp_path, 0, newest=40)
    assert len(list(tmp_path.iterdir())) == 5
    rotate(tmp_path, 2, newest=40, best=str(tmp_path / "checkpoint-2"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-2", "checkpoint-40", "checkpoint-80"
    ]  # fmt: skip
    rotate(tmp_path, 1, newest=40, best="elsewhere/checkpoint-2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-40", "checkpoint-80"]
    keep_only(tmp_path, str(tmp_path / "checkpoint-40"))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-40"]


def test_a_checkpoint_is_renamed_before_it_is_deleted(tmp_path, monkeypatch):
    older, newer = make_checkpoint(tmp_path, 4), make_checkpoint(tmp_path, 8)

    def killed(folder, **kwargs):
        assert Path(folder).name == ".checkpoint-8.delete"
        if Path(folder).is_dir():
            (Path(folder) / "optimizer.pt").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            discard(Path(newer))
    assert checkpoint_to_resume(arguments(tmp_path)) == older
    finish_deletions(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-4"]
    discard(Path(newer))  # nothing there: nothing to do
