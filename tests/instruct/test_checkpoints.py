"""Which checkpoints are whole, and where a run resumes."""

from types import SimpleNamespace

import pytest

from instruct.checkpoints import checkpoint_to_resume
from instruct.files import UserError


def arguments(folder, resume_from_checkpoint=None):
    return SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=resume_from_checkpoint)


def make_checkpoint(folder, step: int, state: str = '{"global_step": 1}'):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(state)
    return str(checkpoint)


def test_the_newest_whole_checkpoint_is_resumed(tmp_path):
    assert checkpoint_to_resume(arguments(tmp_path / "nowhere")) is None
    make_checkpoint(tmp_path, 9)
    newest = make_checkpoint(tmp_path, 10)  # 10 after 9, not "10" before "9"
    make_checkpoint(tmp_path, 11, state='{"global_')  # killed while it was written
    (tmp_path / "checkpoint-12").mkdir()
    make_checkpoint(tmp_path, "best")
    assert checkpoint_to_resume(arguments(tmp_path)) == newest
    assert checkpoint_to_resume(arguments(tmp_path, "true")) == newest
    assert checkpoint_to_resume(arguments(tmp_path, "False")) is None


def test_a_checkpoint_that_is_asked_for_must_be_whole(tmp_path):
    other = make_checkpoint(tmp_path, 3)
    assert checkpoint_to_resume(arguments(tmp_path / "new", other)) == other
    with pytest.raises(UserError, match="checkpoint-4: no whole checkpoint there"):
        checkpoint_to_resume(arguments(tmp_path, str(tmp_path / "checkpoint-4")))
