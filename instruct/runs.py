"""Resuming: every recipe run again with the same `--output_dir` continues from its last whole checkpoint."""

import json
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments

from instruct.files import UserError, write_json


def is_whole(checkpoint: Path) -> bool:
    """Trainer writes `trainer_state.json` last; where it can be read, everything before it was written."""
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, oldest first."""
    found = [
        p for p in Path(output_dir).glob("checkpoint-*") if p.name[11:].isdigit() and is_whole(p)
    ]
    return sorted(found, key=lambda p: int(p.name[11:]))


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """`--resume_from_checkpoint PATH` where given, else the newest whole checkpoint of `--output_dir`, else None."""
    asked = args.resume_from_checkpoint
    if isinstance(asked, str) and asked.lower() not in ("true", "false"):
        if not is_whole(Path(asked)):
            raise UserError(
                f"--resume_from_checkpoint {asked}: no whole checkpoint there (no readable trainer_state.json)"
            )
        return asked
    if isinstance(asked, str) and asked.lower() == "false":
        return None
    found = whole_checkpoints(args.output_dir)
    return str(found[-1]) if found else None


def mark_finished(output_dir: str | Path) -> None:
    """Called by a recipe when everything it writes is there; run again, the recipe then has nothing to do."""
    write_json(Path(output_dir) / "finished.json", {"finished": True})


def is_finished(output_dir: str | Path) -> bool:
    return (Path(output_dir) / "finished.json").is_file()


def leave_together() -> None:
    """Ends a command's process group, where there is one, once every rank is there.

    A rank that exits by itself takes down gloo's or NCCL's threads as they are and can die of it (SIGABRT).
    """
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
