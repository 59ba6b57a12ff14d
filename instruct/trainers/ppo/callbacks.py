"""What watches a PPO run and what it leaves to look at: watchdog, average of the policy, samples,
bar.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from instruct.checks.finite import CAUSE
from instruct.errors import UserError
from instruct.evaluation.diagnosis.bounds import BOUNDS, FIRST, Bound
from instruct.files import atomic_file
from instruct.trainers.ppo.rollout import Rollout
from instruct.trainers.ppo.sample_trackers import track_samples

# ---- watchdog ------------------------------------------------------------------------------------


class WatchdogError(UserError):
    """PPO went wrong; the message names cause and remedy."""


class Watchdog(TrainerCallback):
    """Stops with one sentence on a NaN, or on a bound crossed `watchdog_patience` rollouts in a
    row.

    It raises in `on_log`: callbacks added before it have seen the last line, those after have not.
    `crossed` counts those rollouts, flag -> how many; `first` holds what a bound of shares is
    measured against, metric -> values of the first rollouts. Both are saved with a checkpoint.
    """

    def __init__(self):
        self.crossed: dict[str, int] = {}
        self.first: dict[str, list[float]] = {}

    def state(self) -> dict:
        return {"crossed": self.crossed, "first": self.first}

    def load(self, state: dict) -> None:
        # earlier versions saved no first rollouts: those after the checkpoint are the first
        self.crossed, self.first = state["crossed"], state.get("first", {})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "objective/kl" not in logs:
            return  # an evaluation, or Trainer's closing line
        best = state.best_model_checkpoint
        kept = f"best checkpoint: {best}" if best else f"checkpoints stay in {args.output_dir}"
        stopped = f"stopped at step {state.global_step}"
        # at once, without patience: after a NaN the weights are soon NaN
        for name, value in logs.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise WatchdogError(
                    f"{stopped}: {name} is {value}; {CAUSE}, check the reward's scale; {kept}"
                )
        if not args.watchdog:
            return
        for bound in BOUNDS:
            if bound.metric not in logs:
                continue
            value, limit, shown = self._against(bound, logs, args)
            count = self.crossed.get(bound.flag, 0)
            # in a row: one bad rollout happens in healthy runs, too
            count = count + 1 if bound.crossed_by(value, limit) else 0
            self.crossed[bound.flag] = count
            if count >= args.watchdog_patience:
                side = "above" if bound.ceiling else "below"
                raise WatchdogError(
                    f"{stopped}: {bound.metric} is {value:.4g}, {side} --{bound.flag} {shown} "
                    f"for {count} rollouts; likely {bound.cause}: {bound.remedy}; {kept}"
                )

    def _against(self, bound: Bound, logs: dict, args) -> tuple[float, float, str]:
        """A bound's value, its limit, and how the limit is written."""
        value, limit = logs[bound.metric], getattr(args, bound.flag)
        if not bound.of_first:
            return value, limit, f"{limit:g}"
        first = self.first.setdefault(bound.metric, [])
        if len(first) < FIRST:
            first.append(value)
        mean = sum(first) / len(first)
        return value, limit * mean, f"{limit:g} of the first rollouts' {mean:.4g}"


# ---- average of the policy -----------------------------------------------------------------------


class PolicyAverage(TrainerCallback):
    """The exponential moving average of the policy over optimizer steps (paper: 0.992), in float32.

    Args:
        parameters: what the policy trains, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self.parameters = parameters
        # float32: in bf16 a step of 1 - 0.992 would round to nothing
        self.average = {name: p.detach().float().clone() for name, p in parameters.items()}

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter.float(), 1 - args.ema_decay)

    def save(self, folder: Path) -> None:
        save_file(self.average, folder / "ema.safetensors")

    def load(self, folder: Path) -> None:
        # by name: the order of parameters is not part of the file
        saved = load_file(folder / "ema.safetensors")
        self.average = {name: saved[name].to(p.device) for name, p in self.parameters.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged policy in place of the current one, for a block."""
        # swapped, not copied over: afterwards it is the very same bits
        kept = {name: p.data for name, p in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = self.average[name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = kept[name]

    @torch.no_grad()
    def settle(self) -> None:
        """The policy becomes its average, for good."""
        # into the tensors themselves: optimizer and wrappers hold them
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])


# ---- what a person looks at ----------------------------------------------------------------------


class SampleTable:
    """`samples.jsonl`, and the same in the trackers of `--report_to`: a few responses of every
    `every`-th rollout, the first included.

    Args:
        file: where the rows go.
        every: rollouts between two tables; 0: none.
        rows: responses of a table.
        show: print the first two of each as well.
        handler: the trainer's callbacks, the trackers among them.
    """

    def __init__(self, file: Path, every: int, rows: int, show: bool, handler: CallbackHandler):
        self.file = file
        self.every = every
        self.rows = rows
        self.show = show
        self.handler = handler

    def add(self, rollout: Rollout, number: int, step: int) -> None:
        """Adds rollout `number` (from 0), sampled at optimizer step `step`."""
        if not self.every or number % self.every:
            return
        # per response, where the log has the mean
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1)
        rows = [
            {
                "step": step,
                "prompt": rollout.asked[i],
                "completion": rollout.texts[i],
                "ended": rollout.ended[i].item(),
                "score": rollout.scores[i].item(),
                "kl": kl[i].item(),
                **{f"rewards/{name}": s[i].item() for name, s in rollout.rewards.items()},
            }
            for i in range(min(self.rows, len(rollout.texts)))
        ]
        # appended and closed each time: a killed run leaves what it showed
        with self.file.open("a", encoding="utf-8") as table:
            table.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for row in rows[:2] if self.show else []:
            asked, answered = str(row["prompt"])[-60:], row["completion"][:100]
            print(f"[{row['score']:+.2f}] {asked!r} -> {answered!r}")
        if rows:
            track_samples(rows, step, self.handler.callbacks)

    def drop_from(self, step: int) -> None:
        """Drops rows of `step` and later, which a resumed run writes again, and lines that are no
        rows: a killed run leaves half of one.
        """
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
        # beside, then renamed: killed in the middle, all of them would be gone
        with atomic_file(self.file) as beside:
            beside.write_text("".join(kept), encoding="utf-8")
