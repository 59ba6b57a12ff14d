"""A learning rate of its own for PPO's value function, as in InstructGPT (App. C.4: 9e-6, fixed
while the policy's was swept): groups of the one optimizer, so the schedule scales both rates.
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from instruct.errors import UserError


def set_rate(optimizer: Optimizer, parameters: Iterable[nn.Parameter], rate: float) -> None:
    """Puts `parameters` into groups of their own, at the end, with `rate`; all else stays theirs.

    Before the optimizer's first step and before its schedule is made.

    Raises:
        UserError: the optimizer holds them in no groups.
    """
    apart = {id(p) for p in parameters}
    groups, own = optimizer.param_groups, []
    for group in groups:
        mine = [p for p in group["params"] if id(p) in apart]
        if mine:
            # in place: a wrapper may share the dict
            group["params"] = [p for p in group["params"] if id(p) not in apart]
            own.append({**group, "params": mine, "lr": rate})
    # Trainer logs the first group's rate as the policy's
    groups[:] = [group for group in groups if group["params"]] + own
    # one that makes its groups anew when asked, or steps each weight by itself
    found = {id(p) for g in optimizer.param_groups if g["lr"] == rate for p in g["params"]}
    if not apart <= found:
        raise UserError(
            f"--value_learning_rate: {type(optimizer).__name__} takes one learning rate for all "
            "weights; leave it out, or give --optim adamw_torch"
        )


class OwnValueRate:
    """Goes before a `Trainer` with `shared` (a `SharedBase`) and `args.value_learning_rate`."""

    def create_optimizer(self, *args, **kwargs) -> Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.value_learning_rate is not None:
            set_rate(optimizer, self.shared.value_parameters(), self.args.value_learning_rate)
        return optimizer

    def train(self, *args, **kwargs):
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        # DeepSpeed would make it, of all weights alike
        theirs = plugin is not None and "optimizer" in plugin.deepspeed_config
        if self.args.value_learning_rate is not None and theirs:
            raise UserError(
                "--value_learning_rate: the DeepSpeed configuration has an optimizer of its own, "
                "which takes one rate; remove `optimizer` there"
            )
        return super().train(*args, **kwargs)

    def _get_learning_rate(self) -> float:
        # asked before the schedule moves on, which `log` is not; its groups stand last
        self._value_rate = float(self.optimizer.param_groups[-1]["lr"])
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs and self.args.value_learning_rate is not None:
            logs["value_learning_rate"] = self._value_rate
        super().log(logs, start_time)
