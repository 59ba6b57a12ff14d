"""PPO as in InstructGPT (arXiv 2203.02155, section 3.5 and App. C.4) on one shared base model.

`SharedBasePPOTrainer` is a `PPOTrainer` in name and flags, built like TRL's `GRPOTrainer` on `transformers.Trainer`'s own
loop: rollouts happen in `_prepare_inputs`, the loss in `compute_loss`; clipping, schedules, callbacks, checkpoints, RNG,
DDP, FSDP and ZeRO are Trainer's. One *rollout* is

    batch_size = per_device_train_batch_size x gradient_accumulation_steps x processes x num_mini_batches   episodes

followed by num_ppo_epochs x num_mini_batches optimizer steps on it. `global_step` counts optimizer steps; logging, saving
and evaluation fall on the end of a rollout. For a TRL without `experimental.ppo`, the import marked below is all to change.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import SaveStrategy

# With a newer TRL: from trl.trainer.base_config import _BaseConfig as PPOConfig
#                   from trl.trainer.base_trainer import _BaseTrainer as PPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.models.utils import unwrap_model_for_generation

from instruct.arguments import HardwareDefaults
from instruct.files import UserError, write_json
from instruct.generation import generate_ids
from instruct.tokens import decode_completion, encode_completion, encode_prompt
from instruct.trainers.ppo import math as ppo_math
from instruct.trainers.shared_base import SharedBase, reward_beside, shares_base


@dataclass
class SharedBasePPOConfig(HardwareDefaults, PPOConfig):
    """TRL's PPO flags with the paper's defaults, and what its trainer lacks."""

    # ---- TRL's names
    learning_rate: float = field(
        default=1e-5, metadata={"help": "Peak learning rate. LoRA takes 1e-5 to 5e-4."}
    )
    total_episodes: int | None = field(
        default=None,
        metadata={"help": "Responses to train on; default num_train_epochs x prompts."},
    )
    response_length: int = field(default=64, metadata={"help": "Longest response, in tokens."})
    temperature: float = field(
        default=1.0,
        metadata={"help": "Sampling temperature; also divides the logits that are trained."},
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimizer steps per pass."})
    local_rollout_forward_batch_size: int = field(
        default=32, metadata={"help": "Rows per batch where nothing is trained."}
    )
    kl_coef: float = field(
        default=0.02,
        metadata={"help": "Weight of the per-token KL from the reference (paper: 0.02)."},
    )
    kl_estimator: str = field(
        default="k1", metadata={"help": "k1 (the paper's) or k3.", "choices": ["k1", "k3"]}
    )
    cliprange: float = field(default=0.2, metadata={"help": "Clip range of the probability ratio."})
    cliprange_value: float = field(
        default=0.2, metadata={"help": "Clip range of the value function."}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount (paper: none)."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of GAE."})
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Scale the per-token rewards to variance 1."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the score of a response without eos."}
    )
    reward_model_path: str | None = field(
        default=None, metadata={"help": "Reward model: folder by recipes/reward.py, or a Hub id."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Columns ride along to the reward functions."}
    )
    # ---- ours
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub."}
    )
    value_model: str = field(
        default="adapter",
        metadata={
            "help": "adapter: an adapter and head of its own, started from the reward model's (the paper). head: a scalar head "
            "on the policy's trunk; cheaper, but another algorithm.",
            "choices": ["adapter", "head"],
        },
    )
    rollout_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Episodes per rollout over all processes; derives gradient_accumulation_steps."
        },
    )
    max_prompt_length: int = field(
        default=512, metadata={"help": "Prompts with more tokens are left out (and counted)."}
    )
    reward_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "One weight for the reward model (if any), then one per reward function. 0 = logged, not trained on."
        },
    )
    score_clip: float | None = field(
        default=None, metadata={"help": "Clip scores to +- this before the EOS penalty."}
    )
    kl_target: float | None = field(
        default=None, metadata={"help": "Adapt kl_coef towards this KL, nats per response."}
    )
    kl_horizon: int = field(
        default=10000, metadata={"help": "Episodes over which --kl_target adapts."}
    )
    rollout_weights: str = field(
        default="auto",
        metadata={
            "help": "Weights that sample and score: merged (W + BA, faster), adapters, or auto (merged in float32, unsharded).",
            "choices": ["auto", "merged", "adapters"],
        },
    )
    ptx_coef: float = field(
        default=0.0,
        metadata={
            "help": "PPO-ptx: weight of a language-model loss on --ptx_dataset in every step (paper: 27.8). One more forward "
            "and backward per micro-batch."
        },
    )
    ptx_batch_size: int | None = field(
        default=None, metadata={"help": "ptx rows per micro-batch; default as many as responses."}
    )
    ptx_max_length: int = field(
        default=128, metadata={"help": "ptx rows are cut to this many tokens."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Average the policy over optimizer steps; the average is what is evaluated and written."
        },
    )
    best_max_kl: float = field(
        default=20.0,
        metadata={"help": "A checkpoint above this held-out KL is never the best one."},
    )
    sample_every: int = field(
        default=5, metadata={"help": "Write a sample table every so many rollouts (0: never)."}
    )
    sample_rows: int = field(default=8, metadata={"help": "Rows of a sample table."})
    watchdog: bool = field(
        default=True, metadata={"help": "Stop when a bound below is crossed; NaN always stops."}
    )
    watchdog_patience: int = field(
        default=3, metadata={"help": "Rollouts in a row that must cross a bound."}
    )
    max_kl: float = field(
        default=50.0, metadata={"help": "Watchdog: KL from the reference, nats per response."}
    )
    min_kl: float = field(
        default=-5.0, metadata={"help": "Watchdog: a KL estimate below this is a sampling fault."}
    )
    min_entropy: float = field(
        default=0.02, metadata={"help": "Watchdog: entropy of the policy, nats per token."}
    )
    min_length: float = field(
        default=1.5, metadata={"help": "Watchdog: mean response length in tokens, eos included."}
    )
    min_eos_rate: float = field(
        default=0.0, metadata={"help": "Watchdog: share of responses that end by themselves."}
    )
    max_clipfrac: float = field(
        default=0.8, metadata={"help": "Watchdog: share of tokens whose ratio was clipped."}
    )
    min_explained_variance: float = field(
        default=-100.0, metadata={"help": "Watchdog: of the returns by the value function."}
    )
    watchdog_grad_norm: float = field(
        default=1000.0, metadata={"help": "Watchdog: gradient norm before clipping."}
    )

    def __post_init__(self):
        # PPOConfig's `world_size` field hides TrainingArguments' property, so it is set by hand, before and after.
        hidden = any(f.name == "world_size" for f in fields(self))
        if hidden:
            self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.eval_strategy != "no" and self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "eval_reward_at_bounded_kl", True
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = (
                False  # every trained weight takes part in every training forward
            )
        super().__post_init__()
        if hidden:
            self.world_size = PartialState().num_processes
        if self.temperature <= 0:
            raise ValueError("--temperature must be above 0: PPO learns from sampled responses")
        if not 0 <= (self.ema_decay or 0.0) < 1:
            raise ValueError("--ema_decay must be in [0, 1)")


def exact_div(a: int, b: int, what: str) -> int:
    if a % b:
        raise UserError(f"{what}: {a} is not a multiple of {b}")
    return a // b


def settle_batches(args: SharedBasePPOConfig, num_prompts: int) -> None:
    """All batch arithmetic, in one place. Episodes, where no unit is given; `local` means per process.

    micro_batch -> (x gradient_accumulation_steps) mini_batch = one optimizer step -> (x num_mini_batches) batch = one rollout.
    """
    args.micro_batch_size = args.per_device_train_batch_size * args.world_size
    if args.rollout_batch_size is not None:
        mini = exact_div(
            args.rollout_batch_size,
            args.num_mini_batches,
            "--rollout_batch_size over --num_mini_batches",
        )
        args.gradient_accumulation_steps = exact_div(
            mini,
            args.micro_batch_size,
            "a mini-batch over --per_device_train_batch_size x processes",
        )
    args.local_mini_batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args.mini_batch_size = args.local_mini_batch_size * args.world_size
    args.local_batch_size = args.local_mini_batch_size * args.num_mini_batches
    args.batch_size = args.mini_batch_size * args.num_mini_batches

    args.steps_per_rollout = args.num_ppo_epochs * args.num_mini_batches  # optimizer steps
    if args.max_steps > 0:
        args.num_total_batches = math.ceil(args.max_steps / args.steps_per_rollout)
    else:
        if args.total_episodes is None:
            args.total_episodes = int(args.num_train_epochs * num_prompts)
        args.num_total_batches = max(1, math.ceil(args.total_episodes / args.batch_size))
    args.total_episodes = args.num_total_batches * args.batch_size
    args.max_steps, args.num_train_epochs = args.num_total_batches * args.steps_per_rollout, 1

    whole = lambda steps: max(1, math.ceil(steps / args.steps_per_rollout)) * args.steps_per_rollout  # noqa: E731
    for name in ("save_steps", "eval_steps"):
        asked = getattr(args, name)
        if asked is None:
            continue
        steps = whole(asked * args.max_steps if asked < 1 else asked)
        if steps != asked and PartialState().is_main_process and asked >= 1:
            print(
                f"--{name} {asked:g}: rounded up to {steps}, the end of a rollout ({args.steps_per_rollout} steps)"
            )
        setattr(args, name, steps)
    if (
        args.load_best_model_at_end and args.save_strategy == SaveStrategy.STEPS
    ):  # every checkpoint has its evaluation
        args.save_steps = math.ceil(args.save_steps / args.eval_steps) * args.eval_steps
    args.logging_strategy, args.logging_steps, args.logging_first_step = (
        "steps",
        args.steps_per_rollout,
        False,
    )


class RolloutSampler(Sampler):
    """Prompt indices for every rollout, each rollout's repeated for all its micro-steps: shuffled passes end to end."""

    def __init__(self, prompts: int, rollout: int, rollouts: int, repeats: int, seed: int):
        self.prompts, self.rollout, self.rollouts, self.repeats, self.seed = (
            prompts,
            rollout,
            rollouts,
            repeats,
            seed,
        )

    def __iter__(self):
        generator, queue = torch.Generator().manual_seed(self.seed), []
        for _ in range(self.rollouts):
            while len(queue) < self.rollout:
                queue += torch.randperm(self.prompts, generator=generator).tolist()
            chunk, queue = queue[: self.rollout], queue[self.rollout :]
            for _ in range(self.repeats):
                yield from chunk

    def __len__(self):
        return self.rollouts * self.rollout * self.repeats


def positions(
    prompts: list[list[int]], responses: list[list[int]], pad_id: int, device
) -> dict[str, torch.Tensor]:
    """Right-padded rows and, for each response token in order, where it is predicted from: input_ids, rows, cols, tokens.

    A row's last token predicts nothing that is asked for, so it is no input.
    """
    longest = max(len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True))
    ids, rows, cols, tokens = [], [], [], []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids.append(
            (prompt + response)[:-1] + [pad_id] * (longest + 1 - len(prompt) - len(response))
        )
        rows += [i] * len(response)
        cols += range(len(prompt) - 1, len(prompt) + len(response) - 1)
        tokens += response
    to = lambda x: torch.tensor(x, device=device)  # noqa: E731
    return {"input_ids": to(ids), "rows": to(rows), "cols": to(cols), "tokens": to(tokens)}


@dataclass
class Rollout:
    """B responses of this process. [B, T] tensors hold response tokens from column 0; `mask` says which are real."""

    indices: list[int]
    prompts: list[list[int]]
    responses: list[list[int]]
    texts: list[str]
    mask: torch.Tensor
    rewards: dict[str, torch.Tensor]  # each reward's scores [B], as given
    scores: torch.Tensor  # [B]: weighted sum, clipped, EOS penalty taken off
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    returns: torch.Tensor | None = None


class WatchdogError(UserError):
    """PPO went wrong; the message names cause and remedy."""


# metric -> (flag, is it a ceiling?, likely cause, remedy)
BOUNDS = {
    "objective/kl": ("max_kl", True, "the policy ran away from the reference", "raise --kl_coef, set --kl_target, or lower --learning_rate"),
    "objective/kl ": ("min_kl", False, "responses were not sampled from the distribution that is trained", "use --rollout_weights adapters and float32"),
    "policy/entropy_avg": ("min_entropy", False, "the policy collapsed onto few responses", "raise --kl_coef or lower --learning_rate"),
    "objective/length": ("min_length", False, "the policy answers with nothing", "look at the reward model's score of empty answers, raise --kl_coef"),
    "objective/eos_rate": ("min_eos_rate", False, "responses do not end", "set --missing_eos_penalty or raise --response_length"),
    "policy/clipfrac_avg": ("max_clipfrac", True, "steps are too large for the clip range", "lower --learning_rate or --num_ppo_epochs"),
    "val/explained_variance": ("min_explained_variance", False, "the value function does not fit the returns", "raise --vf_coef or --cliprange_value, or scale the rewards"),
    "grad_norm": ("watchdog_grad_norm", True, "gradients explode", "lower --learning_rate, set --score_clip or --max_grad_norm"),
}  # fmt: skip


def _step_of(checkpoint: str | Path) -> int:
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]


class AverageEachStep(TrainerCallback):
    """Moves the average of the policy towards it after each optimizer step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            for name, parameter in self.trainer.shared.policy_parameters().items():
                self.trainer.ema[name].lerp_(parameter.float(), 1 - args.ema_decay)


class RewardAndKLBar(ProgressCallback):
    """The progress bar with the latest reward and KL on it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "objective/scores" in (logs or {}):
            self.training_bar.set_postfix(
                reward=f"{logs['objective/scores']:.3f}", kl=f"{logs['objective/kl']:.2f}"
            )


class SharedBasePPOTrainer(PPOTrainer):
    """PPO with policy, reference, reward and value on one base model.

    Args:
        model: causal LM, the SFT model: policy and reference start as it.
        args: the settings.
        processing_class: tokenizer with eos, pad and chat template.
        train_dataset: rows with `prompt` (text or messages); other columns go to the reward functions.
        reward_model: path or Hub id (an adapter trained on this base shares it, anything else is loaded beside), or an
            object with `score(prompts, completions) -> list[float]`.
        reward_funcs: functions (prompts, completions, **columns) -> list[float], as in TRL's GRPO.
        eval_dataset: prompts for held-out reward.
        ptx_dataset: rows with `text`, for PPO-ptx.
        peft_config: LoRA of the policy; None trains every weight.
    """

    loss_is_scaled_for_ga = True  # the loss below is a share of the mean over the whole mini-batch

    def __init__(
        self,
        model: PreTrainedModel,
        args: SharedBasePPOConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset,
        reward_model=None,
        reward_funcs: tuple[Callable, ...] = (),
        eval_dataset: Dataset | None = None,
        ptx_dataset: Dataset | None = None,
        peft_config=None,
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
    ):
        if reward_model is None and not reward_funcs:
            raise UserError("nothing to learn from: give --reward_model_path or --reward_funcs")
        self._tokenizer = processing_class
        train_dataset = self._with_ids(train_dataset, "training", args.max_prompt_length)
        if eval_dataset is not None:
            eval_dataset = self._with_ids(eval_dataset, "evaluation", args.max_prompt_length)
        settle_batches(args, len(train_dataset))

        set_seed(args.seed)  # new adapters are random
        shared_reward = isinstance(reward_model, str) and shares_base(reward_model, model)
        shared = SharedBase(
            model, peft_config, reward_model if shared_reward else None, args.value_model
        )
        # Trainer's own __init__: PPOTrainer's would build TRL's loop. The string turns Trainer's own loss scaling off.
        Trainer.__init__(
            self,
            model=shared,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            compute_loss_func="ours, in compute_loss",
        )
        self.shared = shared
        if isinstance(reward_model, str) and not shared_reward:
            self._say(
                f"{reward_model}: not an adapter of {model.name_or_path}, so it is loaded beside it"
            )
            reward_model = reward_beside(reward_model, args.device)
        self.reward_funcs = self._name_rewards(reward_model, reward_funcs)
        self.reward_weights = args.reward_weights or [1.0] * len(self.reward_funcs)
        if len(self.reward_weights) != len(self.reward_funcs):
            raise UserError(
                f"--reward_weights has {len(self.reward_weights)} numbers for {len(self.reward_funcs)} rewards "
                f"({', '.join(self.reward_funcs)})"
            )
        if bool(args.ptx_coef) != (ptx_dataset is not None):
            raise UserError("PPO-ptx needs both --ptx_dataset and a --ptx_coef above 0")
        self.ptx_ids = None if ptx_dataset is None else self._ptx_rows(ptx_dataset)

        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(RewardAndKLBar)
        self.kl_coef = args.kl_coef
        self.crossed: dict[str, int] = {}  # watchdog: rollouts in a row beyond a bound
        self.ema: dict[str, torch.Tensor] | None = None
        self._micro_batches: list[dict] = []
        self._next_micro_batch = 0
        self._metrics: dict[str, float] = {}
        self._update_sums = torch.zeros(7, device=args.device, dtype=torch.float64)

    # ---- data ---------------------------------------------------------------------------------------------------

    def _with_ids(self, rows: Dataset, name: str, longest: int) -> Dataset:
        ids = [encode_prompt(self._tokenizer, prompt) for prompt in rows["prompt"]]
        rows = rows.add_column("prompt_ids", ids)
        short = rows.select([i for i, row in enumerate(ids) if len(row) <= longest])
        if len(short) < len(rows):
            self._say(
                f"{name}: {len(rows) - len(short)} prompts longer than --max_prompt_length {longest} tokens left out"
            )
        if not len(short):
            raise UserError(
                f"{name}: every prompt is longer than --max_prompt_length {longest} tokens"
            )
        return short

    def _ptx_rows(self, rows: Dataset) -> list[list[int]]:
        cut, eos = self.args.ptx_max_length, self._tokenizer.eos_token_id
        ids = [
            (self._tokenizer(text, add_special_tokens=False)["input_ids"] + [eos])[:cut]
            for text in rows["text"]
        ]
        ids = [row for row in ids if len(row) > 1]
        if not ids:
            raise UserError("--ptx_dataset: no row with text")
        return ids

    @staticmethod
    def _say(text: str) -> None:
        if PartialState().is_main_process:
            print(text)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of prompt indices: this process's share of a rollout, once for each of its micro-steps."""
        args = self.args
        repeats = args.steps_per_rollout * args.gradient_accumulation_steps
        sampler = RolloutSampler(
            len(self.train_dataset), args.batch_size, args.num_total_batches, repeats, args.seed
        )
        rows = range(len(self.train_dataset))
        return self.accelerator.prepare(
            DataLoader(
                rows,
                batch_size=args.local_batch_size,
                sampler=sampler,
                collate_fn=lambda indices: {"index": torch.tensor(indices)},
            )
        )

    # ---- rewards ------------------------------------------------------------------------------------------------

    def _name_rewards(self, reward_model, reward_funcs) -> dict[str, Callable]:
        named: dict[str, Callable] = {}
        if self.shared.has_reward:
            named["reward_model"] = self._score_by_role
        elif reward_model is not None:
            score, size = reward_model.score, self.args.local_rollout_forward_batch_size
            named["reward_model"] = lambda prompts, completions, **_: score(
                prompts, completions, size
            )
        for function in reward_funcs:
            name = getattr(function, "__name__", type(function).__name__)
            if name in named:
                raise UserError(f"two rewards are called {name!r}; rename one")
            named[name] = function
        return named

    def _score_by_role(
        self, prompts: list, completions: list[str], role: str = "reward", **_
    ) -> list[float]:
        """Scores by the shared base: like every reward a function of the text, read at its eos."""
        encoded = [
            (encode_prompt(self._tokenizer, p), encode_completion(self._tokenizer, c))
            for p, c in zip(prompts, completions, strict=True)
        ]
        scores = [0.0] * len(encoded)
        with self._fast_weights(role):
            for chunk in self._chunks([len(p) + len(c) for p, c in encoded], even=True):
                after_eos = [encoded[i][1] + [self._pad] for i in chunk]
                batch = positions(
                    [encoded[i][0] for i in chunk], after_eos, self._pad, self.args.device
                )
                rows = torch.arange(len(chunk), device=self.args.device)
                last = torch.tensor(
                    [sum(map(len, encoded[i])) - 1 for i in chunk], device=self.args.device
                )
                found = self._forward(
                    input_ids=batch["input_ids"], rows=rows, cols=last, roles=(role,)
                )[role]
                for i, value in zip(chunk, found.tolist(), strict=True):
                    scores[i] = value
        return scores

    def _rewards(
        self, indices: list[int], dataset: Dataset, texts: list[str]
    ) -> dict[str, torch.Tensor]:
        """Every reward's scores [B] of these texts; a function that fails is named in one sentence."""
        columns = {
            k: v
            for k, v in dataset[indices].items()
            if k not in ("prompt_ids", "completion", "completions")
        }
        prompts, out = columns.pop("prompt"), {}
        for name, function in self.reward_funcs.items():
            try:
                scores = function(prompts=list(prompts), completions=list(texts), **columns)
            except Exception as error:
                if name == "reward_model":
                    raise
                raise UserError(
                    f"reward function {name!r} raised {type(error).__name__}: {error}"
                ) from error
            try:
                scores = torch.tensor([float(s) for s in scores], dtype=torch.float32)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"reward function {name!r} must return one number per completion ({error})"
                ) from error
            if len(scores) != len(texts):
                raise UserError(
                    f"reward function {name!r} returned {len(scores)} scores for {len(texts)} completions"
                )
            if not scores.isfinite().all():
                bad = int((~scores.isfinite()).nonzero()[0])
                raise UserError(
                    f"reward function {name!r} returned {scores[bad]} for the completion {texts[bad]!r}"
                )
            out[name] = scores.to(self.args.device)
        return out

    def _total(self, rewards: dict[str, torch.Tensor], responses: list[list[int]]) -> torch.Tensor:
        """Scores [B]: weighted sum, clipped, less the penalty where eos is missing."""
        scores = sum(
            w * rewards[name] for w, name in zip(self.reward_weights, rewards, strict=True)
        )
        if self.args.score_clip is not None:
            scores = scores.clamp(-self.args.score_clip, self.args.score_clip)
        if self.args.missing_eos_penalty is not None:
            scores = scores - self.args.missing_eos_penalty * ~self._ended(responses)
        return scores

    def _ended(self, responses: list[list[int]]) -> torch.Tensor:
        return torch.tensor(
            [r[-1] == self._tokenizer.eos_token_id for r in responses], device=self.args.device
        )

    # ---- passes without gradient --------------------------------------------------------------------------------

    @property
    def _pad(self) -> int:
        return self._tokenizer.pad_token_id

    @property
    def _sharded(self) -> bool:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return self.is_fsdp_enabled or (self.is_deepspeed_enabled and plugin.zero_stage == 3)

    @property
    def _value_apart(self) -> bool:
        """The value function has weights of its own, and backward may be called for it alone (not: FSDP, DeepSpeed)."""
        return self.args.value_model == "adapter" and not (
            self.is_fsdp_enabled or self.is_deepspeed_enabled
        )

    def _fast_weights(self, role: str):
        """Merged weights for a block of passes as one role, where that is exact enough (or was asked for)."""
        asked = self.args.rollout_weights
        if (
            asked == "adapters"
            or self._sharded
            or not (asked == "merged" or self.shared.can_merge(role))
        ):
            return contextlib.nullcontext()
        if role == "policy" and self.shared.full_policy is not None:
            return contextlib.nullcontext()
        return self.shared.merged(role)

    def _chunks(
        self, lengths: list[int], even: bool = False, size: int | None = None
    ) -> list[list[int]]:
        """Row numbers in batches, sorted by length; `even`: no row is padded by more than a tenth.

        Sharded processes step together, so there the number of batches depends on the number of rows alone.
        """
        chunks, size = [[]], size or self.args.local_rollout_forward_batch_size
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            longer = (
                even
                and not self._sharded
                and chunks[-1]
                and lengths[i] > 1.1 * lengths[chunks[-1][0]]
            )
            if longer or len(chunks[-1]) == size:
                chunks.append([])
            chunks[-1].append(i)
        return chunks

    @torch.no_grad()
    def _forward(self, **inputs) -> dict[str, torch.Tensor]:
        return (self.model_wrapped if self._sharded else self.shared)(**inputs)

    @contextlib.contextmanager
    def _sampling_model(self):
        """The causal LM to sample from, its weights whole."""
        if not self._sharded:
            yield self.shared.switch("policy")
            return
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as unwrapped:
            gather = contextlib.nullcontext()
            if self.is_fsdp_enabled and hasattr(self.model_wrapped, "unshard"):  # FSDP2
                self.model_wrapped.unshard()
            elif self.is_fsdp_enabled:
                from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

                gather = FSDP.summon_full_params(self.model_wrapped, recurse=False)
            with gather:
                yield unwrapped.switch("policy")

    def _sample(self, prompts: list[list[int]], record: list | None = None) -> list[list[int]]:
        """One response per prompt by temperature alone; ids up to and with eos, or response_length of them.

        Where sampling computes as training does (in float32), `record` is filled with each token's log-probability and,
        with a value head on the policy's trunk, its value. In low precision the two differ by more than rounding, and the
        training forward has to say what they were.
        """
        args, responses, seen = self.args, [[] for _ in prompts], {}
        low_precision = args.bf16 or args.fp16 or self.shared.lm.dtype != torch.float32
        exact = not (
            low_precision or self._sharded or getattr(self.shared.lm, "_is_stateful", False)
        )
        if record is not None and exact:
            record[:] = [[] for _ in prompts]
        settings = {"synced_gpus": True} if self._sharded and args.world_size > 1 else {}
        with (
            self._sampling_model() as lm,
            self.accelerator.autocast(),
            contextlib.ExitStack() as stack,
        ):
            if record and args.value_model == "head":
                keep = lambda _, inputs: seen.update(hidden=inputs[0][:, -1])  # noqa: E731
                stack.callback(lm.get_output_embeddings().register_forward_pre_hook(keep).remove)
                settings["also"] = lambda: self.shared.value_head(seen["hidden"].float()).squeeze(
                    -1
                )
            for chunk in self._chunks([len(p) for p in prompts]):
                batch, drawn = [prompts[i] for i in chunk], [] if record else None
                rows = generate_ids(
                    lm,
                    self._tokenizer,
                    batch,
                    args.response_length,
                    args.temperature,
                    record=drawn,
                    **settings,
                )
                for k, i in enumerate(chunk):
                    responses[i] = rows[k]
                    if record:
                        record[i] = torch.tensor(drawn[k], device=args.device)
        return responses

    def _token_pass(self, prompts, responses, roles: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """What each role says of every response token, [B, T], 0 beyond a response's end."""
        shape = (len(responses), max(map(len, responses)))
        out = {role: torch.zeros(shape, device=self.args.device) for role in roles}
        for chunk in self._chunks(
            [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], even=True
        ):
            batch = positions(
                [prompts[i] for i in chunk],
                [responses[i] for i in chunk],
                self._pad,
                self.args.device,
            )
            found = self._forward(**batch, roles=roles, temperature=self.args.temperature)
            rows = torch.tensor(chunk, device=self.args.device)[batch["rows"]]
            cols = torch.cat(
                [torch.arange(len(responses[i]), device=self.args.device) for i in chunk]
            )
            for role in roles:
                out[role][rows, cols] = found[role].float()
        return out

    # ---- rollout ------------------------------------------------------------------------------------------------

    def _collect(
        self, indices: list[int], dataset: Dataset, values: bool = True
    ) -> tuple[Rollout, dict[str, float]]:
        """Steps 1 and 2 of a rollout, for training and evaluation alike -> Rollout, seconds by phase.

        `values` False: not those that would take a pass of their own.
        """
        clock, seconds = time.perf_counter, {}
        prompts = dataset[indices]["prompt_ids"]
        value_by_policy = self.args.value_model == "head"

        # 1. Sample responses, then the log-probabilities of policy and reference and the values, token by token.
        start, record, by_policy = (
            clock(),
            [],
            ("policy", "value") if value_by_policy else ("policy",),
        )
        with self._fast_weights("policy"):
            responses = self._sample(prompts, record)
            seconds["time/sample"] = clock() - start
            if record:
                sampled = torch.nn.utils.rnn.pad_sequence(record, batch_first=True)
                out = dict(zip(by_policy, sampled.unbind(-1), strict=True))
            else:
                out = self._token_pass(prompts, responses, by_policy)
        out |= self._token_pass(prompts, responses, ("reference",))
        if values and not value_by_policy:
            with self._fast_weights("value"):
                out |= self._token_pass(prompts, responses, ("value",))
        seconds["time/rollout"] = clock() - start

        # 2. Score the texts. Scores are a function of the text, so the same text has the same score everywhere.
        start = clock()
        texts = [decode_completion(self._tokenizer, r) for r in responses]
        rewards = self._rewards(indices, dataset, texts)
        seconds["time/score"] = clock() - start

        lengths = torch.tensor([len(r) for r in responses], device=self.args.device)
        mask = torch.arange(out["policy"].shape[1], device=self.args.device) < lengths[:, None]
        scores = self._total(rewards, responses)
        logprobs, values = (out["policy"], out["reference"]), out.get("value")
        return Rollout(
            indices, prompts, responses, texts, mask, rewards, scores, *logprobs, values
        ), seconds

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(values, "sum") if self.args.world_size > 1 else values

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict:
        """Trainer's hook before each micro-step: the next micro-batch, after a new rollout where the last is used up."""
        if self._next_micro_batch == len(self._micro_batches):
            self.model.eval()
            self._new_rollout(inputs["index"].tolist())
            self.model.train()
        batch = self._micro_batches[self._next_micro_batch]
        self._next_micro_batch += 1
        return batch

    def _new_rollout(self, indices: list[int]) -> None:
        args = self.args
        # 1. and 2. Sample and score.
        first_epoch = self._value_apart and args.num_mini_batches == 1
        rollout, seconds = self._collect(indices, self.train_dataset, values=not first_epoch)
        self._update_started = time.perf_counter()
        lengths = rollout.mask.sum(1)

        # 3. Rewards: KL from the reference on every token, the score on the last.
        kl = ppo_math.token_kl(rollout.logprobs, rollout.ref_logprobs, args.kl_estimator)
        rewards = ppo_math.token_rewards(rollout.scores, kl, self.kl_coef, lengths, rollout.mask)
        if args.whiten_rewards:
            rewards = ppo_math.whiten(rewards, rollout.mask, shift_mean=False, reduce=self._sum)

        # 4. Advantages, whitened over all processes, and returns.
        if first_epoch:
            rollout.values = self._first_value_epoch(rollout, rewards)
        advantages, rollout.returns = ppo_math.gae(
            rewards, rollout.values, rollout.mask, args.gamma, args.lam
        )
        rollout.advantages = ppo_math.whiten(advantages, rollout.mask, reduce=self._sum)

        # 5. Epochs: a fresh shuffle for each pass, cut into mini-batches, these into micro-batches of similar length.
        self._micro_batches, self._next_micro_batch = self._cut(rollout, first_epoch), 0

        # 6. What to report, and the KL coefficient of the next rollout.
        self._metrics = self._describe(rollout) | seconds
        self._write_samples(rollout)
        if args.kl_target is not None:
            mean_kl = self._metrics["objective/kl"]
            self.kl_coef = ppo_math.next_kl_coef(
                self.kl_coef, mean_kl, args.kl_target, args.batch_size, args.kl_horizon
            )

    def _first_value_epoch(self, rollout: Rollout, rewards: torch.Tensor) -> torch.Tensor:
        """Values [B, T] by the value function's own adapter and, in the same forward passes, its first epoch.

        Where a rollout is one mini-batch its first epoch meets the very weights that value the rollout, and a row's returns
        need no other row. So the loss and its backward pass are done here; the gradients wait for that epoch's step.
        """
        args, values = self.args, torch.zeros_like(rewards)
        share = args.world_size / self._sum(rollout.mask.sum().float())
        lengths = [len(p) + len(r) for p, r in zip(rollout.prompts, rollout.responses, strict=True)]
        self.model.train()
        for chunk in self._chunks(lengths, even=True, size=args.per_device_train_batch_size):
            batch = positions(
                [rollout.prompts[i] for i in chunk],
                [rollout.responses[i] for i in chunk],
                self._pad,
                args.device,
            )
            mask, old = rollout.mask[chunk], torch.zeros_like(rewards[chunk])
            with self.accelerator.no_sync(self.model_wrapped), self.compute_loss_context_manager():
                found = self.model_wrapped(**batch, roles=("value",))["value"]
                old[mask] = found.detach().float()
                _, returns = ppo_math.gae(rewards[chunk], old, mask, args.gamma, args.lam)
                self._backward(self._value_loss(found, old[mask], returns[mask], share))
            values[chunk] = old
        return values

    def _cut(self, rollout: Rollout, value_done: bool = False) -> list[dict]:
        """Micro-batches of all passes. `share` turns a sum over tokens into this process's share of the mini-batch mean.

        DDP averages gradients over processes, so that share is processes / tokens of the mini-batch on all processes.
        `value_done`: the value function has had its first epoch.
        """
        args, lengths = (
            self.args,
            [len(p) + len(r) for p, r in zip(rollout.prompts, rollout.responses, strict=True)],
        )
        minis = []
        for _ in range(args.num_ppo_epochs):
            order = torch.randperm(len(lengths)).tolist()
            minis += [
                order[i : i + args.local_mini_batch_size]
                for i in range(0, len(order), args.local_mini_batch_size)
            ]
        ptx = [self._draw_ptx(args.local_mini_batch_size) for _ in minis] if self.ptx_ids else None
        tokens = [
            [
                sum(len(rollout.responses[i]) for i in mini),
                sum(len(r) - 1 for r in ptx[n]) if ptx else 0,
            ]
            for n, mini in enumerate(minis)
        ]
        totals = self._sum(torch.tensor(tokens, dtype=torch.float32, device=args.device)).tolist()

        out, size = [], args.per_device_train_batch_size
        for n, mini in enumerate(minis):
            mini = sorted(mini, key=lengths.__getitem__)
            share, ptx_share = (args.world_size / total if total else 0.0 for total in totals[n])
            for k in range(args.gradient_accumulation_steps):
                rows = mini[k * size : (k + 1) * size]
                batch = positions(
                    [rollout.prompts[i] for i in rows],
                    [rollout.responses[i] for i in rows],
                    self._pad,
                    args.device,
                )
                real = rollout.mask[rows]
                batch |= {
                    "old_logprobs": rollout.logprobs[rows][real],
                    "old_values": rollout.values[rows][real],
                    "advantages": rollout.advantages[rows][real],
                    "returns": rollout.returns[rows][real],
                    "share": share,
                    "value_done": value_done and n == 0,
                }
                if ptx:
                    width = len(ptx[n]) // args.gradient_accumulation_steps
                    mine = ptx[n][k * width : (k + 1) * width]
                    batch["ptx"] = positions(
                        [r[:1] for r in mine], [r[1:] for r in mine], self._pad, args.device
                    )
                    batch["ptx_share"] = ptx_share
                out.append(batch)
        return out

    def _draw_ptx(self, rows: int) -> list[list[int]]:
        """Pretraining rows for one mini-batch, sorted by length."""
        per_micro = self.args.ptx_batch_size or self.args.per_device_train_batch_size
        drawn = torch.randint(
            len(self.ptx_ids), (per_micro * self.args.gradient_accumulation_steps,)
        ).tolist()
        return sorted((self.ptx_ids[i] for i in drawn), key=len)

    # ---- update -------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None
    ):
        """This micro-batch's share of: mean policy loss + vf_coef * mean value loss (+ ptx_coef * language-model loss).

        A value function with its own adapter shares no trained weight with the policy, so its backward pass is done
        before the policy's forward: one graph in memory at a time. (FSDP and DeepSpeed want one backward per step.)
        """
        args, batch = self.args, {k: inputs[k] for k in ("input_ids", "rows", "cols", "tokens")}
        value_inputs = inputs["old_values"], inputs["returns"], inputs["share"]
        roles = ("policy",) if self._value_apart else ("policy", "value")
        value_loss = torch.zeros((), device=args.device)
        if self._value_apart and not inputs["value_done"]:
            with self.accelerator.no_sync(model):
                value_loss = self._value_loss(
                    model(**batch, roles=("value",))["value"], *value_inputs
                )
                self._backward(value_loss)
        out = model(**batch, roles=roles, temperature=args.temperature, ptx=inputs.get("ptx"))
        if not self._value_apart:
            value_loss = self._value_loss(out["value"], *value_inputs)
        else:
            value_loss = value_loss.detach()
            if (
                args.world_size > 1
            ):  # DDP sums gradients in a backward pass that meets every trained weight: met here, by 0
                value_loss = value_loss + sum(0.0 * p.sum() for p in self.shared.value_parameters())
        old = inputs["old_logprobs"]
        policy, policy_clipped = ppo_math.policy_losses(
            out["policy"], old, inputs["advantages"], args.cliprange
        )
        loss = policy.sum() * inputs["share"] + value_loss
        ptx = torch.zeros((), device=loss.device)
        if "ptx" in out:
            ptx = -out["ptx"].sum() * inputs["ptx_share"]
            loss = loss + args.ptx_coef * ptx
        with torch.no_grad():
            drift = 0.5 * (out["policy"] - old) ** 2
            sums = [
                policy.sum(),
                0,
                policy_clipped.sum(),
                0,
                drift.sum(),
                len(policy),
                ptx / args.world_size,
            ]
            self._update_sums += torch.stack(
                [torch.as_tensor(s, dtype=torch.float64, device=loss.device) for s in sums]
            )
        return (loss, out) if return_outputs else loss

    def _value_loss(
        self, values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, share
    ) -> torch.Tensor:
        """A micro-batch's share of vf_coef * mean value loss, from values at N tokens; noted for the log."""
        losses, clipped = ppo_math.value_losses(
            values, old_values, returns, self.args.cliprange_value
        )
        self._update_sums[1] += losses.detach().sum()
        self._update_sums[3] += clipped.sum()
        return self.args.vf_coef * losses.sum() * share

    def _backward(self, loss: torch.Tensor) -> None:
        with torch.autocast(self.args.device.type, enabled=False):
            self.accelerator.backward(loss)

    def _describe(self, rollout: Rollout) -> dict[str, float]:
        """Metrics of a rollout over all processes. KL in nats per response; lengths in tokens."""
        mask, n = rollout.mask, len(rollout.responses)
        kl, nll = (
            (rollout.logprobs - rollout.ref_logprobs)[mask].sum(),
            -rollout.logprobs[mask].sum(),
        )
        penalty = ppo_math.token_kl(rollout.logprobs, rollout.ref_logprobs, self.args.kl_estimator)[
            mask
        ].sum()
        returns, errors = rollout.returns[mask], (rollout.returns - rollout.values)[mask]
        sums = [
            n,
            mask.sum(),
            kl,
            nll,
            penalty,
            rollout.scores.sum(),
            self._ended(rollout.responses).sum(),
        ]
        sums += [returns.sum(), (returns**2).sum(), errors.sum(), (errors**2).sum()]
        sums += [r.sum() for r in rollout.rewards.values()]
        total = self._sum(
            torch.stack([torch.as_tensor(s, dtype=torch.float64, device=mask.device) for s in sums])
        ).tolist()
        n, tokens, kl, nll, penalty, scores, ended, r1, r2, e1, e2, *named = total
        spread = r2 / tokens - (r1 / tokens) ** 2
        return {
            "objective/kl": kl / n,
            "objective/entropy": nll / n,
            "objective/scores": scores / n,
            "objective/non_score_reward": -self.kl_coef * penalty / n,
            "objective/rlhf_reward": (scores - self.kl_coef * penalty) / n,
            "objective/length": tokens / n,
            "objective/eos_rate": ended / n,
            "objective/kl_coef": self.kl_coef,
            "policy/entropy_avg": nll / tokens,
            "val/explained_variance": 1 - (e2 / tokens - (e1 / tokens) ** 2) / max(spread, 1e-8),
            **{
                f"rewards/{name}": value / n
                for name, value in zip(rollout.rewards, named, strict=True)
            },
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a rollout's metrics to Trainer's own log line at the end of its last pass, then looks for trouble."""
        training = "loss" in logs and bool(self._metrics)
        if training:
            policy, value, clipped, value_clipped, drift, tokens, ptx = self._sum(
                self._update_sums
            ).tolist()
            self._update_sums.zero_()
            logs |= self._metrics | {
                "loss/policy_avg": policy / tokens,
                "loss/value_avg": value / tokens,
                "policy/clipfrac_avg": clipped / tokens,
                "val/clipfrac_avg": value_clipped / tokens,
                "policy/approxkl_avg": drift / tokens,
                "episode": self.state.global_step
                // self.args.steps_per_rollout
                * self.args.batch_size,
                "time/update": time.perf_counter() - self._update_started,
            }
            if self.ptx_ids:
                logs["loss/ptx_avg"] = ptx / self.args.steps_per_rollout
            self._metrics = {}
        Trainer.log(self, logs, start_time)
        if training:
            self._watch(logs)

    def _watch(self, logs: dict[str, float]) -> None:
        """Stops with one sentence on a NaN, or on a bound crossed `watchdog_patience` rollouts in a row."""
        args, step = self.args, self.state.global_step
        best = self.state.best_model_checkpoint
        kept = f"best checkpoint: {best}" if best else f"checkpoints stay in {args.output_dir}"
        for name, value in logs.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise WatchdogError(
                    f"stopped at step {step}: {name} is {value}; likely too large a step or an overflow in low precision: lower "
                    f"--learning_rate, use --bf16 rather than --fp16, check the reward's scale; {kept}"
                )
        for key, (flag, ceiling, cause, remedy) in BOUNDS.items():
            value, bound = logs.get(key.strip()), getattr(args, flag)
            if value is None or not args.watchdog:
                continue
            over = value > bound if ceiling else value < bound
            self.crossed[flag] = self.crossed.get(flag, 0) + 1 if over else 0
            if self.crossed[flag] >= args.watchdog_patience:
                raise WatchdogError(
                    f"stopped at step {step}: {key.strip()} is {value:.4g}, {'above' if ceiling else 'below'} --{flag} {bound:g} for "
                    f"{self.crossed[flag]} rollouts; likely {cause}: {remedy}; {kept}"
                )

    # ---- sample tables ------------------------------------------------------------------------------------------

    def _write_samples(self, rollout: Rollout) -> None:
        """Adds rows to `samples.jsonl` (and prints two) every `sample_every` rollouts, the first included."""
        number = self.state.global_step // self.args.steps_per_rollout
        if (
            not self.args.sample_every
            or number % self.args.sample_every
            or not self.is_world_process_zero()
        ):
            return
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1).tolist()
        prompts, ended = (
            self.train_dataset[rollout.indices]["prompt"],
            self._ended(rollout.responses).tolist(),
        )
        with open(Path(self.args.output_dir) / "samples.jsonl", "a", encoding="utf-8") as table:
            for i in range(min(self.args.sample_rows, len(rollout.texts))):
                row = {
                    "step": self.state.global_step, "prompt": prompts[i], "completion": rollout.texts[i], "ended": ended[i],
                    "score": rollout.scores[i].item(), "kl": kl[i],
                    **{f"rewards/{name}": values[i].item() for name, values in rollout.rewards.items()},
                }  # fmt: skip
                table.write(json.dumps(row, ensure_ascii=False) + "\n")
                if i < 2 and not self.args.disable_tqdm:
                    print(
                        f"[{row['score']:+.2f}] {str(prompts[i])[-60:]!r} -> {rollout.texts[i][:100]!r}"
                    )

    def _forget_samples_after(self, step: int) -> None:
        table = Path(self.args.output_dir) / "samples.jsonl"
        if table.is_file() and self.is_world_process_zero():
            rows = [
                line for line in table.read_text().splitlines(keepends=True) if line.endswith("\n")
            ]
            table.write_text("".join(line for line in rows if json.loads(line)["step"] < step))

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out reward and KL of responses to the evaluation prompts, always from the same seed.

        `reward_at_bounded_kl` is the reward while KL stays under `best_max_kl`, else a number no checkpoint wants.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        args = self.args
        usable = len(dataset) - len(dataset) % args.world_size
        if not usable:
            raise UserError(f"evaluation needs at least {args.world_size} prompts, one per process")
        self.model.eval()
        devices = [args.device] if args.device.type != "cpu" else []
        with (
            torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"),
            self._averaged(),
        ):
            torch.manual_seed(args.seed + args.process_index)
            rollout, _ = self._collect(
                list(range(args.process_index, usable, args.world_size)), dataset, values=False
            )
        kl = (rollout.logprobs - rollout.ref_logprobs)[rollout.mask].sum()
        sums = [
            len(rollout.texts),
            kl,
            rollout.scores.sum(),
            rollout.mask.sum(),
            self._ended(rollout.responses).sum(),
        ]
        sums += [r.sum() for r in rollout.rewards.values()]
        total = self._sum(
            torch.stack([torch.as_tensor(s, dtype=torch.float64, device=args.device) for s in sums])
        ).tolist()
        n, kl, scores, tokens, ended, *named = (
            x / total[0] if i else x for i, x in enumerate(total)
        )
        values = {"reward": scores, "kl": kl, "length": tokens, "eos_rate": ended}
        values |= {
            f"rewards/{name}": value for name, value in zip(rollout.rewards, named, strict=True)
        }
        values["reward_at_bounded_kl"] = scores if kl <= args.best_max_kl else -1e9
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    # ---- average of the policy ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _averaged(self):
        """The averaged policy in place of the current one, for a block (nothing without --ema_decay)."""
        kept = {n: p.data for n, p in self.shared.policy_parameters().items()} if self.ema else {}
        try:
            for name, parameter in self.shared.policy_parameters().items() if self.ema else ():
                parameter.data = self.ema[name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in self.shared.policy_parameters().items() if self.ema else ():
                parameter.data = kept[name]

    # ---- train, save, resume ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Trainer's loop. Ends with the averaged policy in place where --ema_decay is set."""
        torch.manual_seed(
            self.args.seed + 100003 * self.args.process_index
        )  # each process its own samples
        if self.args.ema_decay is not None:
            if self._sharded:
                raise UserError("--ema_decay does not work with sharded weights (FSDP, ZeRO-3)")
            self.ema = {
                n: p.detach().float().clone() for n, p in self.shared.policy_parameters().items()
            }
            self.add_callback(AverageEachStep(self))
        self._forget_samples_after(
            _step_of(resume_from_checkpoint) if resume_from_checkpoint else 0
        )
        result = Trainer.train(self, resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.ema:
            with torch.no_grad():
                for name, parameter in self.shared.policy_parameters().items():
                    parameter.copy_(self.ema[name])
        return result

    def _save_checkpoint(self, model, trial) -> None:
        Trainer._save_checkpoint(self, model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the policy (plain PEFT, or a plain model), `value/`, the tokenizer and, in checkpoints, PPO's own state."""
        folder = Path(output_dir or self.args.output_dir)
        state = (
            self.accelerator.get_state_dict(self.model_wrapped) if self._sharded else None
        )  # gathers on every process
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            self.shared.save_policy(folder, state)
            self.shared.save_value(folder / "value", state)
            self._tokenizer.save_pretrained(folder)
            if _internal_call:
                if self.ema:
                    save_file(self.ema, folder / "ema.safetensors")
                write_json(
                    folder / "ppo_state.json", {"kl_coef": self.kl_coef, "crossed": self.crossed}
                )
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        folder = Path(resume_from_checkpoint)
        if _step_of(folder) % self.args.steps_per_rollout:
            raise UserError(
                f"{folder} is in the middle of a rollout of {self.args.steps_per_rollout} steps; resume with the "
                "--num_ppo_epochs and --num_mini_batches it was trained with"
            )
        if self.is_fsdp_enabled:
            Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
        else:
            self.shared.load_policy(folder)
            self.shared.load_value(folder / "value")
        state = json.loads((folder / "ppo_state.json").read_text())
        self.kl_coef, self.crossed = state["kl_coef"], state["crossed"]
        if self.ema:
            self.ema = load_file(folder / "ema.safetensors", device=str(self.args.device))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
