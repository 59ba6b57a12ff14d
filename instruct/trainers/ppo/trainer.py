"""PPO as in InstructGPT (arXiv 2203.02155, section 3.5 and App. C.4) on one shared base model.

`SharedBasePPOTrainer` has TRL's flag names for what both have. Like TRL's `GRPOTrainer` it is built
on `transformers.Trainer`'s own loop: clipping, schedules, callbacks, checkpoints, RNG, DDP, FSDP
and ZeRO are Trainer's. Its hooks, in the order of a step:

    get_train_dataloader   prompts of a rollout, once for each of its micro-steps
    _prepare_inputs        the next micro-batch; where all are used up, a new rollout first
    compute_loss           policy loss + value loss (+ ptx), backward by Trainer
    log, evaluate          metrics of a rollout; held-out reward and KL
    save_model, _load_from_checkpoint

`global_step` counts optimizer steps; logging, saving and evaluation fall on the end of a rollout.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from instruct.checks.score_functions import ScoreFunction
from instruct.errors import UserError
from instruct.files import write_json
from instruct.generation import own_random_state
from instruct.prompt_cache import base_of
from instruct.run.checkpoints import step_of
from instruct.run.run_record import together
from instruct.trainers.adapter_files import reward_beside, shares_base
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.ppo import math as ppo_math
from instruct.trainers.ppo import metrics as ppo_metrics
from instruct.trainers.ppo.batches import (
    MicroBatch,
    follow_plan,
    index_loader,
    plan_batches,
    pretraining_rows,
    with_prompt_ids,
)
from instruct.trainers.ppo.callbacks import PolicyAverage, SampleTable, Watchdog
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rollout import Rollout, RolloutWorker
from instruct.trainers.ppo.updates import cut_into_micro_batches
from instruct.trainers.ppo.value_rate import OwnValueRate
from instruct.trainers.progress import show_on_bar
from instruct.trainers.resumable import Resumable
from instruct.trainers.shared_base import SharedBase
from instruct.trl_ppo import PlainPPOParent
from instruct.turns import agree_on_end, save_ends


class SharedBasePPOTrainer(FiniteRun, Resumable, OwnValueRate, PlainPPOParent):
    """PPO with policy, reference, reward and value on one base model.

    Args:
        model: causal LM, the SFT model: policy and reference start as it.
        args: the settings.
        processing_class: tokenizer with eos, pad and chat template.
        train_dataset: rows with `prompt` (text or messages); other columns go to the reward
            functions.
        reward_model: path or Hub id (an adapter trained on this base shares it, anything else is
            loaded beside), or an object with `score(prompts, completions, batch_size) ->
            list[float]`.
        reward_funcs: functions (prompts, completions, **columns) -> list[float], as in TRL's GRPO;
            one or several.
        eval_dataset: prompts for held-out reward.
        ptx_dataset: rows with `text`, for PPO-ptx.
        peft_config: LoRA of the policy; None trains every weight.
        encoded: both datasets come from `with_prompt_ids`, called where their files are known.
    """

    checkpoint_files = ("ppo_state.json", "value/value_head.safetensors")
    loss_is_scaled_for_ga = True  # `compute_loss` gives a share of the mean over the mini-batch

    def __init__(
        self,
        model: PreTrainedModel,
        args: SharedBasePPOConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset,
        reward_model=None,
        reward_funcs: ScoreFunction | Iterable[ScoreFunction] = (),
        eval_dataset: Dataset | None = None,
        ptx_dataset: Dataset | None = None,
        peft_config=None,
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
        encoded: bool = False,
    ):
        if reward_model is None and not reward_funcs:
            raise UserError("nothing to learn from: give --reward_model_path or --reward_funcs")

        agree_on_end(model, processing_class)

        # 1. Prompts, and the arithmetic of their batches
        longest = args.max_prompt_length
        if not encoded:
            train_dataset = with_prompt_ids(train_dataset, processing_class, longest, "training")
            eval_dataset = with_prompt_ids(eval_dataset, processing_class, longest, "evaluation")
        self.batches = plan_batches(args, len(train_dataset))
        follow_plan(args, self.batches)
        self.ptx = pretraining_rows(ptx_dataset, processing_class, args)

        # 2. One base model in four roles
        set_seed(args.seed)  # new adapters are random
        on_base = isinstance(reward_model, str) and shares_base(reward_model, model)
        adapter = reward_model if on_base else None
        trust = args.trust_remote_code
        self.shared = SharedBase(model, peft_config, adapter, args.value_model, trust)

        # 3. Trainer. PPOTrainer's own __init__ would build TRL's loop.
        Trainer.__init__(
            self,
            model=self.shared,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            compute_loss_func=_never_called,
        )

        # 4. Who samples and scores
        asked = {"training": train_dataset, "evaluation": eval_dataset}
        self.worker = RolloutWorker(
            self.shared,
            processing_class,
            args,
            reward_model=None if on_base else reward_beside(reward_model, model, args, asked),
            reward_funcs=reward_funcs,
            accelerator=self.accelerator,
        )

        # 5. What a run carries along
        self.kl_coef = args.kl_coef
        self._micro_batches: deque[MicroBatch] = deque()  # what is left of a rollout
        self._metrics: dict[str, float] = {}  # of the rollout that is being trained on
        self._update = ppo_metrics.NamedSums(args.device)  # over its micro-batches
        self._add_watchers()

    def _add_watchers(self) -> None:
        args = self.args
        self.average: PolicyAverage | None = None  # made when training starts
        self.watchdog = Watchdog()
        self.add_callback(self.watchdog)
        show_on_bar(self, reward="objective/scores", kl="objective/kl")
        self.samples = SampleTable(
            Path(args.output_dir) / "samples.jsonl",
            every=args.sample_every,
            rows=args.sample_rows,
            show=not args.disable_tqdm,
            handler=self.callback_handler,
        )

    # ---- 1. prompts ------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of each rollout's prompts, see `index_loader`."""
        loader = index_loader(len(self.train_dataset), self.batches, self.args.seed)
        return self.accelerator.prepare(loader)

    # ---- 2. rollout ------------------------------------------------------------------------------

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> MicroBatch:
        """Trainer's hook before each micro-step."""
        # inputs count only here: Trainer hands the same prompts to every micro-step
        if not self._micro_batches:
            self.model.eval()
            self._new_rollout(inputs["index"].tolist())
            self.model.train()
        return self._micro_batches.popleft()

    def _new_rollout(self, indices: list[int]) -> None:
        args = self.args
        # 2.1 Sample and score
        # a score that is no number on one process ends all of them
        rollout = together(lambda: self._collect(self.train_dataset[indices]))
        self._update_started = time.perf_counter()

        # 2.2 Rewards: KL from the reference on every token, the score on the last
        kl = ppo_math.token_kl(rollout.logprobs, rollout.ref_logprobs, args.kl_estimator)
        lengths = rollout.mask.sum(1)
        rewards = ppo_math.token_rewards(rollout.scores, kl, self.kl_coef, lengths, rollout.mask)
        if args.whiten_rewards:
            rewards = ppo_math.whiten(rewards, rollout.mask, shift_mean=False, reduce=self._sum)

        # 2.3 Advantages, whitened over all processes, and returns
        advantages, rollout.returns = ppo_math.gae(
            rewards, rollout.values, rollout.mask, args.gamma, args.lam
        )
        rollout.advantages = ppo_math.whiten(advantages, rollout.mask, reduce=self._sum)

        # 2.4 Micro-batches of all epochs
        pad_id = self.processing_class.pad_token_id
        self._micro_batches.extend(
            cut_into_micro_batches(rollout, self.batches, args, pad_id, self.ptx, self._sum)
        )

        # 2.5 What to report, and the KL coefficient of the next rollout
        self._metrics = ppo_metrics.rollout_metrics(
            rollout, self.kl_coef, args.kl_estimator, self._sum
        )
        self._metrics |= rollout.seconds
        if self.is_world_process_zero():
            step = self.state.global_step
            self.samples.add(rollout, step // self.batches.steps_per_rollout, step)
        if args.kl_target is not None:
            kl, episodes = self._metrics["objective/kl"], self.batches.rollout_size
            self.kl_coef = ppo_math.next_kl_coef(
                self.kl_coef, kl, args.kl_target, episodes, args.kl_horizon
            )

    def _collect(self, rows: dict[str, list], with_values: bool = True) -> Rollout:
        # the wrapped model is there only once training has begun
        self.worker.sharded_model = self.model_wrapped if self._sharded else None
        return self.worker.collect(rows, with_values)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(values, "sum") if self.args.world_size > 1 else values

    @property
    def _sharded(self) -> bool:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return self.is_fsdp_enabled or (self.is_deepspeed_enabled and plugin.zero_stage == 3)

    # ---- 3. update -------------------------------------------------------------------------------

    @property
    def _value_apart(self) -> bool:
        """The value function has weights of its own, and a backward pass of its own is possible.

        FSDP and DeepSpeed want one backward pass per step.
        """
        one_backward = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.args.value_model == "adapter" and not one_backward

    def compute_loss(
        self, model, batch: MicroBatch, return_outputs: bool = False, num_items_in_batch=None
    ):
        """This micro-batch's share of the mean loss: policy + vf_coef * value (+ ptx_coef * ptx).

        A value adapter shares no trained weight with the policy, so its backward pass is done
        before the policy's forward: one graph in memory at a time.
        """
        args = self.args
        # 3.1 Value function with weights of its own: forward and backward here
        if self._value_apart:
            value_loss = self._value_step(model, batch)

        # 3.2 Policy, and a value function that shares its pass
        roles = ("policy",) if self._value_apart else ("policy", "value")
        out = model(**batch.tokens, roles=roles, temperature=args.temperature, ptx=batch.ptx)
        if not self._value_apart:
            value_loss = self._value_loss(out["value"], batch)
        losses, clipped = ppo_math.policy_losses(
            out["policy"], batch.old_logprobs, batch.advantages, args.cliprange
        )
        loss = losses.sum() * batch.share + value_loss

        # 3.3 PPO-ptx: the language-model loss on pretraining rows
        if batch.ptx is not None:
            ptx = -out["ptx"].sum() * batch.ptx_share
            loss = loss + args.ptx_coef * ptx
            self._update.add(ptx=ptx.detach() / args.world_size)
        drift = 0.5 * (out["policy"].detach() - batch.old_logprobs) ** 2
        self._update.add(
            policy=losses.detach().sum(),
            clipped=clipped.sum(),
            drift=drift.sum(),
            tokens=len(losses),
        )
        return (loss, out) if return_outputs else loss

    def _value_step(self, model, batch: MicroBatch) -> torch.Tensor:
        """Forward and backward of a value adapter -> its share of the loss, for the log."""
        # no sync yet: DDP would miss the policy's gradients in this backward pass
        with self.accelerator.no_sync(model):
            loss = self._value_loss(model(**batch.tokens, roles=("value",))["value"], batch)
            # PyTorch advises against a backward pass under autocast
            with torch.autocast(self.args.device.type, enabled=False):
                self.accelerator.backward(loss)
        loss = loss.detach()
        if self.args.world_size > 1:
            # DDP sums gradients in a backward pass that meets every trained weight: met here, by 0
            loss = loss + sum(0.0 * p.sum() for p in self.shared.value_parameters())
        return loss

    def _value_loss(self, values: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """A micro-batch's share of vf_coef * mean value loss, from values at N tokens."""
        losses, clipped = ppo_math.value_losses(
            values, batch.old_values, batch.returns, self.args.cliprange_value
        )
        self._update.add(value=losses.detach().sum(), value_clipped=clipped.sum())
        return self.args.vf_coef * losses.sum() * batch.share

    # ---- 4. log and evaluation -------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a rollout's metrics to Trainer's own log line at the end of its last pass."""
        if "loss" in logs and self._metrics:
            rollouts = self.state.global_step // self.batches.steps_per_rollout
            logs |= self._metrics
            logs |= ppo_metrics.update_metrics(
                self._update.take(self._sum), self.batches.steps_per_rollout
            )
            logs["episode"] = rollouts * self.batches.rollout_size
            logs["time/update"] = time.perf_counter() - self._update_started
            self._metrics = {}
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out reward and KL of responses to the evaluation prompts, always from the same seed.

        `reward_at_bounded_kl` is the reward while KL stays under `best_max_kl`, else a number no
        checkpoint wants.
        """
        args = self.args
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        # as many for each process: ranks that stop apart hang sharded sampling
        usable = len(dataset) - len(dataset) % args.world_size
        if not usable:
            raise UserError(f"evaluation needs at least {args.world_size} prompts, one per process")
        rows = dataset[list(range(args.process_index, usable, args.world_size))]
        self.model.eval()
        averaged = self.average.in_place() if self.average else contextlib.nullcontext()
        with own_random_state(args.device), averaged:
            torch.manual_seed(args.seed + args.process_index)
            rollout = self._collect(rows, with_values=False)
        values = ppo_metrics.held_out_metrics(rollout, args.best_max_kl, self._sum)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    # ---- 5. train, save, resume ------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Trainer's loop. Ends with the averaged policy in place where --ema_decay is set."""
        args = self.args
        torch.manual_seed(args.seed + 100003 * args.process_index)  # each process its own samples
        if args.ema_decay is not None:
            if self._sharded:
                raise UserError("--ema_decay does not work with sharded weights (FSDP, ZeRO-3)")
            self.average = PolicyAverage(self.shared.policy_parameters())
            self.add_callback(self.average)
        if self.is_world_process_zero():
            done = step_of(resume_from_checkpoint) if resume_from_checkpoint else 0
            self.samples.drop_from(done)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.average is not None:
            self.average.settle()
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the policy (plain PEFT, or a plain model), `value/` and the tokenizer.

        In checkpoints (`_internal_call`) PPO's own state as well.
        """
        folder = Path(output_dir or self.args.output_dir)
        # gathers on every process, so it is asked for on every process
        state = self.accelerator.get_state_dict(self.model_wrapped) if self._sharded else None
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            self.shared.save_policy(folder, state)
            self.shared.save_value(folder / "value", state)
            self.processing_class.save_pretrained(folder)
            save_ends(base_of(self.shared.lm), folder)
            if _internal_call:
                if self.average is not None:
                    self.average.save(folder)
                state = {"kl_coef": self.kl_coef, **self.watchdog.state()}
                write_json(folder / "ppo_state.json", state)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        folder = Path(resume_from_checkpoint)
        # the rest of that rollout was in memory only
        if step_of(folder) % self.batches.steps_per_rollout:
            raise UserError(
                f"{folder} is in the middle of a rollout of {self.batches.steps_per_rollout} "
                "steps; resume with the --num_ppo_epochs and --num_mini_batches it was trained with"
            )
        if self.is_fsdp_enabled:
            Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
        else:
            self.shared.load_policy(folder)
            self.shared.load_value(folder / "value")
        state = json.loads((folder / "ppo_state.json").read_text())
        self.kl_coef = state["kl_coef"]
        self.watchdog.load(state)
        if self.average is not None:
            self.average.load(folder)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def _never_called(*_args, **_kwargs):
    """A loss function that is not None makes an older transformers leave the loss's scale alone."""
    raise NotImplementedError("the loss is in SharedBasePPOTrainer.compute_loss")
