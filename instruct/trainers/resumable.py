"""A Trainer whose run, cut off after any checkpoint and run again, ends in the same bits.

Trainer saves weights, optimizer, scheduler, RNG and log. What else the rest of a run depends on:

- the order of an epoch under `group_by_length`, drawn from torch's global state when it began;
- losses and metrics since the last line of the log;
- counters of callbacks (early stopping), and that a run has stopped already;
- the evaluation at an epoch's end, if the checkpoint is written before it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.data_loader import get_sampler
from accelerate.utils import broadcast_object_list
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from instruct.errors import UserError
from instruct.files import write_json
from instruct.hub import ask_anew, is_refusal
from instruct.run.checkpoints import (
    CARRIED,
    CHECKPOINT,
    best_beside,
    discard,
    finish_deletions,
    had_stopped,
    keep_only,
    rotate,
    same,
    seal,
    step_of,
)
from instruct.run.run_record import on_main
from instruct.run_defaults import RunDefaults


class RepeatableOrder(Sampler):
    """Another sampler's order, drawn from torch's global state, that can be drawn once more.

    `began` is that state as the epoch's order was drawn; `again`, where set, the one to draw the
    next order from.
    """

    def __init__(self, sampler: Sampler, processes: int):
        self.sampler = sampler
        self.processes = processes
        self.began: torch.Tensor | None = None
        self.again: torch.Tensor | None = None

    def __iter__(self) -> Iterator[int]:
        own = torch.get_rng_state()
        self.began = own if self.again is None else self.again
        self.again = None
        if self.processes > 1:
            # Dropout has drawn differently on each: with orders of their own they would share out
            # some rows twice and others never.
            [self.began] = broadcast_object_list([self.began])
        torch.set_rng_state(self.began)
        order = list(self.sampler)
        if self.processes > 1:
            torch.set_rng_state(own)
        return iter(order)

    def __len__(self) -> int:
        return len(self.sampler)


@contextlib.contextmanager
def _no_rotation(args: TrainingArguments) -> Iterator[None]:
    """Trainer deletes no checkpoint in this block: it would before the new one is sealed."""
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield
    finally:
        args.save_total_limit = limit


class Resumable:
    """Goes before a `Trainer` in a class's bases; `train` resumes exactly (CPU: bit for bit).

    A Hub that is away when training starts stops nothing: `runs.push` comes last anyway.

    `checkpoint_files`: what its checkpoints hold beside Trainer's own files.
    """

    checkpoint_files: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # TRL's own configs have their rate
        if isinstance(self.args, RunDefaults):
            self.args.fit_rate(self.model)

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Raises: UserError: the Hub refuses, on every process; one that is away is said."""
        make = super().init_hf_repo

        def try_to_make() -> None:
            ask_anew()
            try:
                make(*args, **kwargs)
            # the Hub client raises many unrelated types
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                if is_refusal(error):
                    raise UserError(
                        f"--push_to_hub: the Hub refuses ({reason}); log in by `hf auth login` or "
                        "set HF_TOKEN, and look at --hub_model_id"
                    ) from error
                print(
                    f"the Hub cannot be reached ({reason}): nothing is pushed before training "
                    "ends, then it is tried again"
                )

        on_main(try_to_make)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # without a repository there is nowhere to push to
        if self.hub_model_id is not None:
            super()._push_from_checkpoint(checkpoint_folder)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Trainer's `train`. Takes the path of a whole checkpoint (`checkpoint_to_resume`)."""
        args = self.args
        self._resumed = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if args.should_save:
            self._delete_what_was_due()
        self._order: RepeatableOrder | None = None  # made with the data loader
        # early stopping counts on from where it was
        args.restore_callback_states_from_checkpoint = True
        self.remove_callback(_Continue)
        self.add_callback(_Continue(self))
        # the evaluation before step 1 is in the log already
        asked, args.eval_on_start = args.eval_on_start, args.eval_on_start and not self._resumed
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            args.eval_on_start = asked

    # ---- order of the rows -----------------------------------------------------------------------

    def _get_train_sampler(self, *args, **kwargs):
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            # `random` draws from seed and epoch already
            sampler = self._order = RepeatableOrder(sampler, self.args.world_size)
        return sampler

    def _run_epoch(self, *args, **kwargs):
        # Trainer asks whether to stop after a step, and would first make one more
        if self._had_stopped:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---- what Trainer does not save --------------------------------------------------------------

    def _carried(self) -> dict:
        losses = self.accelerator.gather(self._tr_loss).reshape(-1).tolist()
        # at an epoch's end the next one's order is drawn from the RNG state that Trainer saves
        amid = self._order and not float(self.state.epoch).is_integer()
        order = self._order.began if amid else None
        metrics = getattr(self, "_metrics", {}).get("train", {})
        return {
            "losses": losses,  # since the last line of the log, by process
            "loss_before": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "order": None if order is None else bytes(order.tolist()).hex(),
            # TRL's own, summed over processes
            "metrics": {name: list(map(float, values)) for name, values in metrics.items()},
            "tokens": getattr(self, "_total_train_tokens", None),
        }

    def _take_up(self, carried: dict) -> None:
        """`_carried` of an earlier process, once Trainer has set all of it to its start."""
        if len(carried["losses"]) == self.args.world_size:
            self._tr_loss += carried["losses"][self.args.process_index]
        self._total_loss_scalar = carried["loss_before"]
        self._globalstep_last_logged = carried["last_logged"]
        if carried["order"] and self._order:
            drawn_from = bytes.fromhex(carried["order"])
            self._order.again = torch.tensor(list(drawn_from), dtype=torch.uint8)
        if carried["metrics"]:
            self._metrics["train"].update(carried["metrics"])
        if carried["tokens"] is not None:
            self._total_train_tokens = carried["tokens"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs and self._knows_all_losses:
            # Trainer's is the mean of this process's steps
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        step = self.state.global_step
        checkpoint = Path(self._get_output_dir(trial)) / f"{CHECKPOINT}{step}"
        carried = self._carried()  # by all processes
        if self.args.should_save:
            # of an attempt that was cut off: its files would mix with the new ones
            discard(checkpoint)
            write_json(checkpoint / CARRIED, carried)
        self.accelerator.wait_for_everyone()
        with _no_rotation(self.args):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(checkpoint)
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            rotate(checkpoint.parent, limit, step, best)

    def _delete_what_was_due(self) -> None:
        """What a killed run would have deleted after its last checkpoint."""
        finish_deletions(self.args.output_dir)
        if self._resumed and same(self._resumed.parent, self.args.output_dir):
            best = best_beside(self._resumed)
            step, limit = step_of(self._resumed), self.args.save_total_limit
            rotate(self.args.output_dir, limit, step, best)

    def _finalize_training(self, *args, **kwargs):
        with _no_rotation(self.args):
            result = super()._finalize_training(*args, **kwargs)
        best = self.state.best_model_checkpoint
        # as Trainer: where one is to be left, it is the best
        if self.args.should_save and self.args.save_total_limit == 1 and best is not None:
            keep_only(self.args.output_dir, best)
        return result


class _Continue(TrainerCallback):
    """Trainer's events that `Resumable` needs."""

    def __init__(self, trainer: Resumable):
        self.trainer = trainer
        self.postponed = False

    def on_train_begin(self, args, state, control, **kwargs):
        trainer, checkpoint = self.trainer, self.trainer._resumed
        trainer._knows_all_losses = checkpoint is None or (checkpoint / CARRIED).is_file()
        # now: under --save_total_limit the checkpoint may be gone by the next epoch
        trainer._had_stopped = checkpoint is not None and had_stopped(checkpoint, state.max_steps)
        if checkpoint is None:
            return
        if trainer._knows_all_losses:
            trainer._take_up(json.loads((checkpoint / CARRIED).read_text(encoding="utf-8")))
        elif state.is_world_process_zero:
            print(
                f"{checkpoint.name} is of an earlier version: the log's next losses and, under "
                "group_by_length, the order of the rest of this epoch are not what they were"
            )
        best = best_beside(checkpoint)
        # the folder of the run may have been moved since
        if best is not None and best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Under several processes, Trainer's own reaches no sampler whose first batches are skipped
        sampler = get_sampler(train_dataloader)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        ends = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        # what an epoch's end evaluates and logs is to be in the checkpoint
        if control.should_save and ends:
            control.should_save, self.postponed = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.postponed:
            control.should_save, self.postponed = True, False
