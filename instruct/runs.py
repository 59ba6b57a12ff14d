"""A run from start to end: is it finished, where does it resume, and what is on disk before a push.

Every recipe run again with the same `--output_dir` continues from its last whole checkpoint.
A recipe asks `already_finished`, trains by `train_or_resume` and ends in `finish`.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import PartialState
from transformers import Trainer, TrainingArguments

from instruct.checkpoints import checkpoint_to_resume
from instruct.files import write_json

FINISHED = "finished.json"

################
# Start
################


def is_finished(output_dir: str | Path) -> bool:
    """Whether a recipe wrote everything it writes to this folder."""
    return (Path(output_dir) / FINISHED).is_file()


def already_finished(args: TrainingArguments) -> bool:
    """`is_finished`, said to the user."""
    if not is_finished(args.output_dir):
        return False
    print(f"{args.output_dir} holds a finished run; delete it to train again")
    return True


def train_or_resume(trainer: Trainer) -> None:
    """Trains to the end, from the last whole checkpoint where there is one."""
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(trainer.args))


################
# End
################


def mark_finished(output_dir: str | Path) -> None:
    """The last file of a run; run again, the recipe then has nothing to do."""
    write_json(Path(output_dir) / FINISHED, {"finished": True})


@contextlib.contextmanager
def _push_held_back(args: TrainingArguments) -> Iterator[None]:
    """`Trainer.save_model` pushes by itself where `--push_to_hub` is on; in this block it is off.

    Its `_internal_call=True` would do the same, but also says "this is a checkpoint" to ours.
    """
    asked, args.push_to_hub = args.push_to_hub, False
    try:
        yield
    finally:
        args.push_to_hub = asked


def finish(trainer: Trainer, save_extras: Callable[[Path], None] | None = None) -> None:
    """Writes everything a run leaves behind, then pushes it where `--push_to_hub` is on.

    The push comes last, so that a Hub that cannot be reached costs nothing that was trained.

    Args:
        save_extras: called with the output folder, on one process, for what only this recipe
            writes (a merged model, a reward head, metrics). What the processes compute together
            is computed before: here the others would not take part.
    """
    output_dir = Path(trainer.args.output_dir)
    with _push_held_back(trainer.args):
        # all processes: sharded weights are gathered here
        trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        if save_extras is not None:
            save_extras(output_dir)
        trainer.create_model_card()  # after the extras: it shows their numbers
        mark_finished(output_dir)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def end_process_group() -> None:
    """Ends the process group of a launched command, where there is one, once every rank is there.

    A rank that exits alone tears down gloo's or NCCL's threads mid-work and can die (SIGABRT).
    """
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
