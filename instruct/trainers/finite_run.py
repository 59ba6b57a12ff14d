"""A run stops where its loss, gradient or weights are no longer finite, before any of it is saved.

Trainer goes on: its `logging_nan_inf_filter` shows other steps' losses in the place of a NaN, and
after one step by a NaN gradient every weight is NaN.
"""

import math

from accelerate.utils import gather_object
from transformers import TrainerCallback

from instruct.checks.finite import CAUSE, LOST, bad_weight
from instruct.errors import UserError

# fp16 skips a step whose gradients overflow and halves the loss's scale, at first some 16 times in
# a row (from 65536); by so many the scale is 1e-7, and no gradient of use overflows.
MOST_SKIPPED = 40


class FiniteRun:
    """Goes first in a trainer's bases; `train` raises `UserError` at what is not finite.

    Looked at where numbers are on the CPU anyway, so that no step waits for the device: in each
    line of the log, which sums the losses since the last one over all processes, and before weights
    are saved. A NaN between two lines is in the weights by the next save.
    """

    def train(self, *args, **kwargs):
        asked = self.args.logging_nan_inf_filter
        # on, a NaN would not be in the log, and each micro-step would wait for the device
        self.args.logging_nan_inf_filter = asked and self._may_skip
        if self._may_skip:
            self.add_callback(_Skips(self))
        try:
            result = super().train(*args, **kwargs)
        finally:
            self.args.logging_nan_inf_filter = asked
        self._check_trained()
        return result

    @property
    def _may_skip(self) -> bool:
        """Whether gradients may overflow: in fp16 such a step is skipped, and the scale halved."""
        return self.accelerator.mixed_precision == "fp16"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # these alone: a metric may be 0 / 0 where there is nothing to measure
        checked = [name for name in logs if name.endswith("loss")]
        checked += ["grad_norm"] if "grad_norm" in logs and not self._may_skip else []
        if self.args.world_size > 1 and "train_loss" in checked:
            # of this process: alone it would leave the others waiting. The weights are looked at
            checked.remove("train_loss")
        for name in checked:
            if not math.isfinite(logs[name]):
                self._stop(f"{name} is {logs[name]}")
        super().log(logs, start_time)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        self._check_trained()
        super()._save_checkpoint(*args, **kwargs)

    def _check_trained(self) -> None:
        """That the trained weights are finite, on all processes."""
        trained = ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)
        found = [bad_weight(trained, LOST)]
        if self.args.world_size > 1:
            found = gather_object(found)  # each may hold another part of them
        for name, value in filter(None, found):
            self._stop(f"the weight {name} is {value:g}")

    def _stop(self, what: str):
        best = self.state.best_model_checkpoint
        kept = f"best checkpoint: {best}" if best else f"checkpoints stay in {self.args.output_dir}"
        raise UserError(f"stopped at step {self.state.global_step}: {what}; {CAUSE}; {kept}")


class _Skips(TrainerCallback):
    """Steps that fp16 skips: some are legal, many in a row or all of a run are not."""

    def __init__(self, trainer: FiniteRun):
        self.trainer, self.in_a_row, self.taken = trainer, 0, False

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.in_a_row, self.taken = 0, True
            return
        self.in_a_row += 1
        if self.in_a_row >= MOST_SKIPPED:
            self.trainer._stop(f"the gradient overflowed in {MOST_SKIPPED} steps in a row")

    def on_train_end(self, args, state, control, **kwargs):
        if self.in_a_row and not self.taken:
            self.trainer._stop("the gradient overflowed in every step, so nothing was trained")
