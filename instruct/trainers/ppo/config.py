"""PPO's flags: TRL's names where TRL had them, with the paper's defaults, and what its trainer
lacked.

They stand on TRL's base config, not on its `PPOConfig`: the same flags exist on every TRL.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from trl.trainer.base_config import _BaseConfig

from instruct.run_defaults import Batches, Rates, RunDefaults, batch_flag, rate_flag


def flag(default, text: str, choices: list[str] | None = None):
    """A dataclass field as `HfArgumentParser` reads it."""
    metadata = {"help": text} if choices is None else {"help": text, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass
class SharedBasePPOConfig(RunDefaults, _BaseConfig):
    """Settings of `SharedBasePPOTrainer`; everything else is `transformers.TrainingArguments`."""

    RATES: ClassVar[Rates] = Rates(lora=1e-4, full=1e-5)
    # rollouts of 64 episodes; of fewer, their mean reward says little
    BATCHES: ClassVar[Batches] = Batches(train=4, evaluation=4, accumulation=16)

    # ---- batches (arithmetic: `batches.BatchPlan`)
    total_episodes: int | None = flag(
        None, "Responses to train on; default num_train_epochs x prompts."
    )
    rollout_batch_size: int | None = flag(
        None,
        "Episodes per rollout over all processes; derives gradient_accumulation_steps.",
    )
    per_device_train_batch_size: int | None = batch_flag(BATCHES, "train")
    gradient_accumulation_steps: int | None = batch_flag(BATCHES, "accumulation")
    num_ppo_epochs: int = flag(4, "Passes over each rollout.")
    num_mini_batches: int = flag(1, "Optimizer steps per pass.")
    local_rollout_forward_batch_size: int = flag(32, "Rows per batch where nothing is trained.")
    remove_unused_columns: bool = flag(False, "Columns ride along to the reward functions.")

    # ---- models
    learning_rate: float | None = rate_flag(RATES)
    value_learning_rate: float | None = flag(
        None,
        "Peak learning rate of the value function (paper: 9e-6, fixed); default --learning_rate.",
    )
    trust_remote_code: bool = flag(False, "Run model code from the Hub.")
    value_model: str = flag(
        "adapter",
        "adapter: an adapter and head of its own, started from the reward model's (the paper). "
        "head: a scalar head on the policy's trunk; cheaper, but another algorithm.",
        choices=["adapter", "head"],
    )
    ema_decay: float | None = flag(
        None,
        "Average the policy over optimizer steps; the average is what is evaluated and written.",
    )

    # ---- sampling
    max_prompt_length: int = flag(512, "Prompts with more tokens are left out (and counted).")
    response_length: int = flag(64, "Longest response, in tokens.")
    temperature: float = flag(
        1.0, "Sampling temperature; also divides the logits that are trained."
    )
    rollout_weights: str = flag(
        "auto",
        "Weights that sample and score: merged (W + BA, faster), adapters, or auto (merged in "
        "float32, unsharded).",
        choices=["auto", "merged", "adapters"],
    )

    # ---- reward
    reward_model_path: str | None = flag(
        None, "Reward model: folder by recipes/reward.py, or a Hub id."
    )
    reward_weights: list[float] | None = flag(
        None,
        "One weight for the reward model (if any), then one per reward function. 0 = logged, not "
        "trained on.",
    )
    score_clip: float | None = flag(None, "Clip scores to +- this before the EOS penalty.")
    missing_eos_penalty: float | None = flag(
        None, "Subtracted from the score of a response without eos."
    )
    whiten_rewards: bool = flag(False, "Scale the per-token rewards to variance 1.")

    # ---- KL from the reference
    kl_coef: float = flag(0.02, "Weight of the per-token KL from the reference (paper: 0.02).")
    kl_estimator: str = flag("k1", "k1 (the paper's) or k3.", choices=["k1", "k3"])
    kl_target: float | None = flag(None, "Adapt kl_coef towards this KL, nats per response.")
    kl_horizon: int = flag(10000, "Episodes over which --kl_target adapts.")

    # ---- losses
    cliprange: float = flag(0.2, "Clip range of the probability ratio.")
    cliprange_value: float = flag(0.2, "Clip range of the value function.")
    vf_coef: float = flag(0.1, "Weight of the value loss.")
    gamma: float = flag(1.0, "Discount (paper: none).")
    lam: float = flag(0.95, "Lambda of GAE.")
    ptx_coef: float = flag(
        0.0,
        "PPO-ptx: weight of a language-model loss on --ptx_dataset in every step (paper: 27.8). "
        "One more forward and backward per micro-batch.",
    )
    ptx_batch_size: int | None = flag(
        None, "ptx rows per micro-batch; default as many as responses."
    )
    ptx_max_length: int = flag(128, "ptx rows are cut to this many tokens.")

    # ---- what is kept and shown
    best_max_kl: float = flag(10.0, "A checkpoint above this held-out KL is never the best one.")
    sample_every: int = flag(
        5, "Write a sample table every so many rollouts, also to --report_to (0: never)."
    )
    sample_rows: int = flag(8, "Rows of a sample table.")

    # ---- watchdog (causes and remedies: `diagnosis.bounds`)
    watchdog: bool = flag(True, "Stop when a bound below is crossed; NaN always stops.")
    watchdog_patience: int = flag(3, "Rollouts in a row that must cross a bound.")
    max_kl: float = flag(
        15.0,
        "Watchdog: KL from the reference, nats per response. It grows with the responses: for "
        "hundreds of tokens give more (docs/ppo.md).",
    )
    min_kl: float = flag(-5.0, "Watchdog: a KL estimate below this is a sampling fault.")
    min_entropy: float = flag(0.02, "Watchdog: entropy of the policy, nats per token.")
    min_distinct2_ratio: float = flag(
        0.6,
        "Watchdog: distinct-2 of a rollout's responses, as a share of the first rollouts'.",
    )
    min_length: float = flag(1.5, "Watchdog: mean response length in tokens, eos included.")
    min_eos_rate: float = flag(0.0, "Watchdog: share of responses that end by themselves.")
    max_clipfrac: float = flag(0.8, "Watchdog: share of tokens whose ratio was clipped.")
    min_explained_variance: float = flag(-100.0, "Watchdog: of the returns by the value function.")
    watchdog_grad_norm: float = flag(1000.0, "Watchdog: gradient norm before clipping.")

    def __post_init__(self):
        # Trainer would compare checkpoints by eval_loss, which PPO has none of
        if self.eval_strategy != "no" and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_reward_at_bounded_kl"
            self.greater_is_better = True
        if self.ddp_find_unused_parameters is None:
            # every trained weight takes part in every training forward
            self.ddp_find_unused_parameters = False
        super().__post_init__()
        # greedy decoding has no distribution to take a probability ratio of
        if self.temperature <= 0:
            raise ValueError("--temperature must be above 0: PPO learns from sampled responses")
        if not 0 <= (self.ema_decay or 0.0) < 1:
            raise ValueError("--ema_decay must be in [0, 1)")
