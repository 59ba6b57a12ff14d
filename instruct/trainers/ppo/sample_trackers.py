"""PPO's sample tables in the trackers of `--report_to`: in the run that has the losses.

A table holds users' prompts. It goes to trackers that were named, and to no other place.
"""

from collections.abc import Iterable

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from instruct.evaluation.trackers import markdown_table, trackio_table
from instruct.tokens import as_text

TABLE = "samples"


def table_of(rows: list[dict]) -> list[list]:
    """Rows of `samples.jsonl` as a table, header first; a prompt as text."""
    names = [name for name in rows[0] if name != "step"]
    return [names, *([_shown(row[name]) for name in names] for row in rows)]


def _shown(value):
    return as_text(value) if isinstance(value, list) else value


def track_samples(rows: list[dict], step: int, callbacks: Iterable[TrainerCallback]) -> None:
    """Logs rows of one rollout to each tracker that the trainer has.

    Args:
        rows: one or more, of the same columns.
        step: the optimizer step that they were sampled at.
    """
    table = table_of(rows)
    for callback in callbacks:
        # none before training begins, and on processes that do not log
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_text(TABLE, markdown_table(table), step)
        elif isinstance(callback, TrackioCallback) and callback._initialized:
            callback._trackio.log({TABLE: trackio_table(table), "train/global_step": step})
        elif isinstance(callback, WandbCallback) and callback._initialized:
            shown = callback._wandb.Table(columns=table[0], data=table[1:])
            callback._wandb.log({TABLE: shown, "train/global_step": step})
