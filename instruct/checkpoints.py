"""Which checkpoints of a run are whole, and where it resumes."""

import json
from pathlib import Path

from transformers import TrainingArguments

from instruct.files import UserError

CHECKPOINT = "checkpoint-"  # then the optimiser step, as Trainer names its folders


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end.

    Trainer writes `trainer_state.json` last: where it can be read, the rest was written before.
    """
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of a run that were written to their end, oldest first."""
    found = Path(output_dir).glob(f"{CHECKPOINT}*")
    steps = {folder: folder.name.removeprefix(CHECKPOINT) for folder in found}
    whole = [folder for folder, step in steps.items() if step.isdigit() and is_whole(folder)]
    # by number: names sort 100 before 20, and times change with a copy
    return sorted(whole, key=lambda folder: int(steps[folder]))


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint to continue from, or None to start at step 0.

    `--resume_from_checkpoint PATH` where given, else the newest whole one of `--output_dir`.

    Raises:
        UserError: the path given holds no whole checkpoint.
    """
    asked = args.resume_from_checkpoint
    # the flag is TRL's: a path, or the words true and false
    if isinstance(asked, str) and asked.lower() not in ("true", "false"):
        if not is_whole(Path(asked)):
            raise UserError(
                f"--resume_from_checkpoint {asked}: no whole checkpoint there "
                "(no readable trainer_state.json)"
            )
        return asked
    if isinstance(asked, str) and asked.lower() == "false":
        return None
    found = whole_checkpoints(args.output_dir)
    return str(found[-1]) if found else None
