"""A run stops where its loss, gradient or weights are no longer finite, before any of it is saved.

Trainer goes on: its `logging_nan_inf_filter` shows other steps' losses in the place of a NaN, and
after one step by a NaN gradient every weight is NaN.
"""

import math

import torch
from accelerate.utils import gather_object

from instruct.checks.finite import CAUSE, LOST, bad_weight
from instruct.files import UserError

# fp16 skips a step whose gradients overflow and halves the loss's scale, at first some 16 times in
# a row (from 65536); by so many the scale is 1e-7, and no gradient of use overflows.
MOST_SKIPPED = 40


class FiniteRun:
    """Goes first in a trainer's bases; `train` raises `UserError` at what is not finite."""

    def train(self, *args, **kwargs):
        asked = self.args.logging_nan_inf_filter
        # off, each micro-step also waits less for the device
        self.args.logging_nan_inf_filter = asked and self._may_skip
        self._last_taken: int | None = None  # the last step that was not skipped
        try:
            return super().train(*args, **kwargs)
        finally:
            self.args.logging_nan_inf_filter = asked

    @property
    def _may_skip(self) -> bool:
        """Whether gradients may overflow: in fp16 such a step is skipped, and the scale halved."""
        return self.accelerator.mixed_precision == "fp16"

    # ---- a step ----------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        self._check_step(tr_loss, grad_norm)
        return super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _check_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None) -> None:
        """`loss` is the sum since the last line of the log, of this process."""
        step, control = self.state.global_step, self.control
        if self._last_taken is None:
            self._last_taken = step - 1
        skipped = self._may_skip and self.accelerator.optimizer_step_was_skipped
        if not skipped:
            self._last_taken = step
        elif step - self._last_taken >= MOST_SKIPPED:
            self._stop(f"the gradient overflowed in {MOST_SKIPPED} steps in a row")
        ends = control.should_log or control.should_evaluate or control.should_save
        # a process alone would leave the others waiting, and asking all costs a message
        if self.args.world_size > 1 and not ends:
            return
        self._check_loss(loss)
        if grad_norm is not None and not skipped:
            self._check("the gradient's norm", float(grad_norm))

    def _check_loss(self, loss: torch.Tensor) -> None:
        if self.args.world_size > 1:
            loss = self.accelerator.gather(loss.detach()).sum()
        self._check("the loss", loss.item())

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._stop(f"{what} is {value}")

    def _stop(self, what: str):
        best = self.state.best_model_checkpoint
        kept = f"best checkpoint: {best}" if best else f"checkpoints stay in {self.args.output_dir}"
        raise UserError(f"stopped at step {self.state.global_step}: {what}; {CAUSE}; {kept}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, value in logs.items():
            # these alone: a metric may be 0 / 0 where there is nothing to measure
            if name.endswith("loss") and isinstance(value, float):
                self._check(name, value)
        super().log(logs, start_time)

    # ---- weights ---------------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        self._check_trained()
        super()._save_checkpoint(model, trial)

    def _finalize_training(self, *args, **kwargs):
        self._check_loss(self._tr_loss)
        # every step of the run was skipped
        if self._last_taken is not None and self._last_taken < self._initial_global_step + 1:
            self._stop("the gradient overflowed in every step, so nothing was trained")
        self._check_trained()
        return super()._finalize_training(*args, **kwargs)

    def _check_trained(self) -> None:
        """That the trained weights are finite, on all processes."""
        trained = ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)
        found = [bad_weight(trained, LOST)]
        if self.args.world_size > 1:
            found = gather_object(found)  # each may hold another part of them
        for name, value in filter(None, found):
            self._stop(f"the weight {name} is {value:g}")
