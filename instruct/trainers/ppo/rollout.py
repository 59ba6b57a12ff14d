"""Rollouts: sample, score, and every pass that trains nothing. Usable without the trainer.

Scores are a function of the text, so the same text has the same score in a file and in PPO.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from trl.models.utils import unwrap_model_for_generation

from instruct.checks.score_functions import ScoreFunction
from instruct.generation import generate
from instruct.models import RewardModel
from instruct.reward_checks import tell_own_tokenizer
from instruct.tokens import decode_completion, encode_pairs, template_columns
from instruct.trainers.ppo.batches import by_length, token_batch
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rewards import Rewards, name_rewards
from instruct.trainers.shared_base import SharedBase
from instruct.turns import has_ended


@dataclass
class Rollout:
    """B responses of this process. [B, T] tensors hold response tokens from column 0.

    `mask` says which of them are real; whatever lies outside is 0.
    """

    asked: list  # prompts as the dataset has them: texts or messages
    prompts: list[list[int]]
    responses: list[list[int]]  # up to and with their end, or response_length ids
    texts: list[str]
    ended: torch.Tensor  # bool [B]: the response ends by itself
    mask: torch.Tensor  # bool [B, T]
    rewards: dict[str, torch.Tensor]  # each reward's scores [B], as given
    scores: torch.Tensor  # [B]: what PPO makes of them, see `Rewards.total`
    logprobs: torch.Tensor  # [B, T], and so are all below
    ref_logprobs: torch.Tensor
    values: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, as they are logged

    @property
    def lengths(self) -> list[int]:
        """Prompt and response tokens of each row."""
        return [len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)]


@dataclass
class Sampled:
    """Responses and, where sampling computes exactly as training does, what it knew of each
    token.
    """

    responses: list[list[int]]
    logprobs: torch.Tensor | None = None  # [B, T]
    values: torch.Tensor | None = None  # [B, T], of a value head on the policy's trunk


class RolloutWorker:
    """Samples, scores and runs the passes without gradient.

    Args:
        shared: the base model and its roles.
        tokenizer: with eos, pad and chat template.
        args: the settings.
        reward_model: an object with `score(prompts, completions, batch_size) -> list[float]`; not
            needed where `shared` has the reward role.
        reward_funcs: functions (prompts, completions, **columns) -> list[float].
        accelerator: for mixed precision and sharded weights; None where there is neither.
    """

    def __init__(
        self,
        shared: SharedBase,
        tokenizer: PreTrainedTokenizerBase,
        args: SharedBasePPOConfig,
        reward_model=None,
        reward_funcs: ScoreFunction | Iterable[ScoreFunction] = (),
        accelerator: Accelerator | None = None,
    ):
        self.shared = shared
        self.tokenizer = tokenizer
        self.args = args
        self.accelerator = accelerator
        # FSDP or ZeRO-3: the wrapped model, the only one whose call gathers the weights
        self.sharded_model: nn.Module | None = None
        score = None if reward_model is None else self._by_model(reward_model)
        score = self.score_by_role if shared.has_reward else score
        # what an object of the user's own calls a tokenizer may be anything
        beside = reward_model.tokenizer if isinstance(reward_model, RewardModel) else None
        tell_own_tokenizer(shared.reward_tokenizer or beside, tokenizer)
        self.rewards = Rewards(name_rewards(score, reward_funcs), args)

    def _by_model(self, reward_model) -> ScoreFunction:
        def score(prompts: list, completions: list[str], /, **columns) -> list[float]:
            size = self.args.local_rollout_forward_batch_size
            # an object of the user's own renders nothing
            ours = template_columns(columns) if isinstance(reward_model, RewardModel) else {}
            return reward_model.score(prompts, completions, size, **ours)

        return score

    # ---- a rollout -------------------------------------------------------------------------------

    def collect(self, rows: dict[str, list], with_values: bool = True) -> Rollout:
        """Answers and scores B prompts.

        Args:
            rows: `prompt`, `prompt_ids` and what else the reward functions take, B values each.
            with_values: also values that take a pass of their own (those of a value adapter).
        """
        prompts, seconds = rows["prompt_ids"], {}
        started = time.perf_counter()

        # 1. Sample. What is not known from sampling takes a pass over whole rows.
        with self._fast_weights("policy"):
            sampled = self.sample(prompts)
            seconds["time/sample"] = time.perf_counter() - started
            by_policy = self._policy_pass(prompts, sampled)

        # 2. Reference, and the value function where it has weights of its own
        # unmerged: the reference is the base with every adapter off
        reference = self.token_pass(prompts, sampled.responses, ("reference",))["reference"]
        values = by_policy.get("value")
        if with_values and self.args.value_model == "adapter":
            with self._fast_weights("value"):
                values = self.token_pass(prompts, sampled.responses, ("value",))["value"]
        seconds["time/rollout"] = time.perf_counter() - started

        # 3. Score the texts
        started = time.perf_counter()
        texts = [
            decode_completion(self.tokenizer, ids, prompt)
            for ids, prompt in zip(sampled.responses, prompts, strict=True)
        ]
        # a reward function takes the columns as TRL's GRPO hands them on; `completions` of samples
        # or rankings that serve as prompts are not those it is asked about
        ours = ("prompt", "prompt_ids", "completion", "completions")
        columns = {name: column for name, column in rows.items() if name not in ours}
        rewards = self.rewards.scores(rows["prompt"], texts, columns)
        ended = self._ended(sampled.responses)
        seconds["time/score"] = time.perf_counter() - started

        return Rollout(
            asked=rows["prompt"],
            prompts=prompts,
            responses=sampled.responses,
            texts=texts,
            ended=ended,
            mask=self._mask(sampled.responses),
            rewards=rewards,
            scores=self.rewards.total(rewards, ended),
            logprobs=by_policy["policy"],
            ref_logprobs=reference,
            values=values,
            seconds=seconds,
        )

    def _policy_pass(self, prompts: list[list[int]], sampled: Sampled) -> dict[str, torch.Tensor]:
        """Log-probabilities `policy` and, by a head on its trunk, `value`: as sampled, or by a
        pass.
        """
        if sampled.logprobs is None:
            by_head = self.args.value_model == "head"
            # one pass for both: the head reads the policy's trunk
            roles = ("policy", "value") if by_head else ("policy",)
            return self.token_pass(prompts, sampled.responses, roles)
        known = {"policy": sampled.logprobs, "value": sampled.values}
        return {role: values for role, values in known.items() if values is not None}

    def _ended(self, responses: list[list[int]]) -> torch.Tensor:
        ended = [has_ended(self.tokenizer, ids) for ids in responses]
        return torch.tensor(ended, device=self.args.device)

    def _mask(self, responses: list[list[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(ids) for ids in responses], device=self.args.device)
        return torch.arange(int(lengths.max()), device=self.args.device) < lengths[:, None]

    # ---- sampling --------------------------------------------------------------------------------

    def sample(self, prompts: list[list[int]]) -> Sampled:
        """One response per prompt, by temperature alone.

        In low precision, sampling (cached, token by token) and training (whole rows) differ by more
        than rounding; then only the training forward can say what the log-probabilities were.
        """
        args = self.args
        low_precision = args.bf16 or args.fp16 or self.shared.lm.dtype != torch.float32
        # a recurrent model steps through other kernels than it trains by
        stateful = getattr(self.shared.lm, "_is_stateful", False)
        exact = not (low_precision or stateful or self.sharded_model is not None)
        # one process that stops early would leave the others waiting in a gather
        together = self.sharded_model is not None and args.world_size > 1
        settings = {"synced_gpus": True} if together else {}

        responses: list[list[int]] = [[] for _ in prompts]
        logprobs: list[torch.Tensor] = [torch.empty(0) for _ in prompts]
        values: list[torch.Tensor] = [torch.empty(0) for _ in prompts]
        by_head = exact and args.value_model == "head"
        with self._sampling_model() as lm, self._autocast(), self._head_values(lm, by_head) as also:
            # `generate` groups by length itself, so here only the size counts
            for chunk in self._chunks([len(ids) for ids in prompts], even=False):
                drawn = generate(
                    lm,
                    self.tokenizer,
                    [prompts[i] for i in chunk],
                    args.response_length,
                    args.temperature,
                    also=also,
                    **settings,
                )
                for k, i in enumerate(chunk):
                    responses[i] = drawn.ids[k]
                    if exact:
                        logprobs[i] = torch.tensor(drawn.logprobs[k], device=args.device)
                    if by_head:
                        values[i] = torch.tensor(drawn.noted[k], device=args.device)
        return Sampled(
            responses=responses,
            logprobs=pad_sequence(logprobs, batch_first=True) if exact else None,
            values=pad_sequence(values, batch_first=True) if by_head else None,
        )

    @contextlib.contextmanager
    def _head_values(self, lm: nn.Module, wanted: bool) -> Iterator:
        """A function that gives the value head's word [rows] on the last position `lm` computed; or
        None.
        """
        if not wanted:
            yield None
            return
        # The body's output passes here anyway: values cost no pass of their own.
        seen = {}

        def keep_hidden(_module, inputs):
            # the last position: the first step of `generate` may bring several
            seen["hidden"] = inputs[0][:, -1]

        def values() -> torch.Tensor:
            return self.shared.value_head(seen["hidden"].float()).squeeze(-1)

        hook = lm.get_output_embeddings().register_forward_pre_hook(keep_hidden)
        try:
            yield values
        finally:
            hook.remove()

    @contextlib.contextmanager
    def _sampling_model(self) -> Iterator[nn.Module]:
        """The causal LM to sample from, its weights whole."""
        wrapped = self.sharded_model
        if wrapped is None:
            yield self.shared.switch("policy")
            return
        # ZeRO-3: gathers all weights for the block
        with unwrap_model_for_generation(wrapped, self.accelerator) as unwrapped:
            # FSDP: layers gather their own weights as they run. `generate` goes past the root's
            # forward, though, so what the root holds itself (embeddings, LM head) is gathered here.
            gather = contextlib.nullcontext()
            # accelerate's state has the attribute under FSDP alone
            is_fsdp = getattr(self.accelerator.state, "fsdp_plugin", None) is not None
            if is_fsdp and hasattr(wrapped, "unshard"):  # FSDP2
                wrapped.unshard()
            elif is_fsdp:
                from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

                # recurse=False: the root's alone, not every layer at once
                gather = FSDP.summon_full_params(wrapped, recurse=False)
            with gather:
                yield unwrapped.switch("policy")

    def _autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.accelerator is None else self.accelerator.autocast()

    # ---- passes ----------------------------------------------------------------------------------

    def token_pass(
        self, prompts: list[list[int]], responses: list[list[int]], roles: tuple[str, ...]
    ) -> dict[str, torch.Tensor]:
        """What each role says of every response token: [B, T], 0 beyond a response's end."""
        device = self.args.device
        shape = (len(responses), max(map(len, responses)))
        out = {role: torch.zeros(shape, device=device) for role in roles}
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        # written by row and column, so batches may be in any order
        for chunk in self._chunks(lengths, even=True):
            chosen = [responses[i] for i in chunk]
            batch = token_batch([prompts[i] for i in chunk], chosen, self._pad, device)
            found = self._forward(**batch, roles=roles, temperature=self.args.temperature)
            rows = torch.tensor(chunk, device=device)[batch["rows"]]
            cols = torch.cat([torch.arange(len(ids), device=device) for ids in chosen])
            for role in roles:
                out[role][rows, cols] = found[role].float()
        return out

    def score_by_role(
        self, prompts: list, completions: list[str], role: str = "reward", /, **columns
    ) -> list[float]:
        """Scores [B] by the shared base, read at each text's eos: a reward function like any
        other.
        """
        device = self.args.device
        # by text, not by the sampled ids: the same text tokenised has the same score, and a reward
        # model rendered and cut its texts as its own tokenizer does
        tokenizer = self.shared.reward_tokenizer if role == "reward" else self.tokenizer
        pairs = encode_pairs(tokenizer, prompts, completions, template_columns(columns))
        asked, answered = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
        lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
        scores = [0.0] * len(lengths)
        with self._fast_weights(role):
            for chunk in self._chunks(lengths, even=True):
                # the last token is no input; one more makes eos the last that is
                after_eos = [answered[i] + [self._pad] for i in chunk]
                ids = token_batch([asked[i] for i in chunk], after_eos, self._pad, device)
                found = self._forward(
                    input_ids=ids["input_ids"],
                    rows=torch.arange(len(chunk), device=device),
                    cols=torch.tensor([lengths[i] - 1 for i in chunk], device=device),
                    roles=(role,),
                )
                for i, value in zip(chunk, found[role].tolist(), strict=True):
                    scores[i] = value
        return scores

    @torch.no_grad()
    def _forward(self, **inputs) -> dict[str, torch.Tensor]:
        # only a call of the wrapped model gathers sharded weights; else the wrapper is overhead
        return (self.sharded_model or self.shared)(**inputs)

    def _chunks(self, lengths: list[int], even: bool) -> list[list[int]]:
        """Sharded processes step together: there the number of batches is that of the rows
        alone.
        """
        even = even and self.sharded_model is None
        return by_length(lengths, self.args.local_rollout_forward_batch_size, even)

    def _fast_weights(self, role: str) -> contextlib.AbstractContextManager:
        """Merged weights for a block of passes as one role, where exact enough, or asked for."""
        asked = self.args.rollout_weights
        if asked == "adapters" or self.sharded_model is not None:
            return contextlib.nullcontext()
        if role == "policy" and self.shared.full_policy is not None:
            return contextlib.nullcontext()  # no adapter to merge
        # in bf16 only if asked: merged rounding would show as KL
        if asked == "merged" or self.shared.can_merge(role):
            return self.shared.merged(role)
        return contextlib.nullcontext()

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id
