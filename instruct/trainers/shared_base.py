"""Policy, reference, reward and value as roles of ONE base model: the adapter that is on speaks.

| role | adapter | head |
|---|---|---|
| policy | `default`, trained | the LM head |
| reference | none | the LM head |
| reward | `reward`, frozen | `reward_head`, frozen |
| value | `value`, trained, or none: read from the policy's trunk | `value_head`, trained |

A value adapter starts as a copy of the reward's (InstructGPT, App. C.4).
With full fine-tuning the policy is a model of its own and the base is the frozen copy the other
roles live on.
"""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl.trainer.utils import disable_dropout_in_model

from instruct.errors import UserError
from instruct.reward_checks import IN_ADAPTER, check_adapter, check_base, check_fits, does_not_fit
from instruct.reward_files import adapter_config, adapter_weights, reward_head, reward_tokenizer
from instruct.trainers.adapter_files import part_of, save_adapter
from instruct.trainers.fused_lora import fuse_lora

SCORE = "score.weight"  # a decoder's reward head, which a causal LM came without
ADAPTER = {"policy": "default", "reference": None, "reward": "reward", "value": "value"}


def linear_head(
    width: int, weight: torch.Tensor | None = None, bias: float | torch.Tensor = 0.0
) -> nn.Linear:
    """A float32 head hidden -> scalar; all zero where no weight is given."""
    # float32: one number a token, and bf16 would round rewards to few steps
    head = nn.Linear(width, 1)
    with torch.no_grad():
        # values that start at 0 do not move the first advantages
        head.weight.zero_() if weight is None else head.weight.copy_(weight)
        head.bias.fill_(float(bias))
    return head


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """log softmax(logits / temperature) at `tokens`: [N, V], [N] -> [N], in float32."""
    # softmax over the vocabulary in bf16 would show as KL from the reference
    logits = logits.float()
    return -F.cross_entropy(
        logits if temperature == 1 else logits / temperature, tokens, reduction="none"
    )


class SharedBase(nn.Module):
    """One base model and its roles.

    Args:
        model: the causal LM that is policy (adapter on top) and reference.
        peft_config: LoRA settings of the policy; None trains every weight, beside a frozen copy.
        reward_path: folder or Hub id of an adapter by `recipes/reward.py` trained on this base;
            None: no reward role.
        value_model: "adapter" or "head".
        trust_remote_code: for the reward's tokenizer.

    Attributes:
        reward_tokenizer: the tokenizer saved with the reward adapter, with which texts are scored;
            None without that role.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        peft_config,
        reward_path: str | None = None,
        value_model: str = "adapter",
        trust_remote_code: bool = False,
    ):
        super().__init__()
        self.config = model.config
        self.has_reward = reward_path is not None
        self.value_model = value_model
        width = model.get_output_embeddings().weight.shape[1]

        # 1. policy: an adapter, or every weight of `model`, beside a frozen copy
        self.full_policy = None if peft_config is not None else model
        base = model if peft_config is not None else copy.deepcopy(model)
        base.requires_grad_(False)
        if peft_config is not None:
            if peft_config.modules_to_save:
                raise UserError("--lora_modules_to_save: PPO on a shared base trains adapters only")
            base = get_peft_model(base, peft_config, adapter_name="default")
        # 2. reward
        self.reward_head = linear_head(width)
        self.reward_tokenizer = None
        if reward_path is not None:
            base = self._add_reward(base, reward_path)
            self.reward_tokenizer = reward_tokenizer(reward_path, trust_remote_code)
        # 3. value
        self.value_head = linear_head(width)
        if value_model == "adapter":
            base = self._add_value(base, peft_config)
        self.base = base

        disable_dropout_in_model(self)
        fuse_lora(base)
        self._layers = [m for m in base.modules() if isinstance(m, LoraLayer)]
        self._role: str | None = None
        self._merged: str | None = None
        self._settle_what_trains()
        self.switch("policy")

    # ---- building --------------------------------------------------------------------------------

    @staticmethod
    def _add_adapter(base, name: str, config: LoraConfig) -> PeftModel:
        if not isinstance(base, PeftModel):
            return get_peft_model(base, config, adapter_name=name)
        base.add_adapter(name, config)
        return base

    def _add_reward(self, base, path: str) -> PeftModel:
        """Puts a SEQ_CLS adapter on the causal LM's body.

        PEFT's own `load_adapter` would drop its `score` head in silence.
        """
        config, state = adapter_config(path), adapter_weights(path)
        head = reward_head(path)
        check_base(path, head, self.config.name_or_path)
        check_adapter(path, state, [SCORE])
        # the head apart: a causal LM's body has no place for it
        weight = state.pop(IN_ADAPTER + SCORE)
        # where it is now: PEFT looks there whether the vocabulary has grown
        config.base_model_name_or_path = self.config.name_or_path
        # as SEQ_CLS, PEFT would look for a `score` module to save
        config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, False
        try:
            base = self._add_adapter(base, "reward", config)
        # its modules are not there
        except ValueError as error:
            raise does_not_fit(path, self.config.name_or_path) from error
        # before PEFT puts them in: it loads what fits and drops the rest
        wanted = get_peft_model_state_dict(base, adapter_name="reward")
        check_fits(path, self.config.name_or_path, state, wanted)
        set_peft_model_state_dict(base, state, adapter_name="reward")
        # demonstrations score 0 on average, in PPO as in a file
        self.reward_head = linear_head(weight.shape[1], weight, head.get("bias", 0.0))
        return base

    def _add_value(self, base, peft_config) -> PeftModel:
        """An adapter that starts as the reward's; without one, new, under a head of zeros."""
        if self.has_reward:
            base.add_adapter("value", copy.deepcopy(base.peft_config["reward"]))
            weights = get_peft_model_state_dict(base, adapter_name="reward")
            set_peft_model_state_dict(base, weights, adapter_name="value")
            # head and adapter belong together: values start as rewards
            self.value_head.load_state_dict(self.reward_head.state_dict())
            return base
        config = copy.deepcopy(peft_config)
        if config is None:
            config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
        return self._add_adapter(base, "value", config)

    def _settle_what_trains(self) -> None:
        """Policy and value train, reward and base do not; `switch` restores exactly this."""
        for layer in self._layers:
            for kind in layer.adapter_layer_names:
                for name, part in getattr(layer, kind).items():
                    part.requires_grad_(name in ("default", "value"))
        if self.full_policy is not None:
            self.full_policy.requires_grad_(True)
        self.reward_head.requires_grad_(False)
        # a list made once: `switch` runs several times per micro-batch
        self._trains = [(p, p.requires_grad) for n, p in self.named_parameters() if "lora_" in n]

    # ---- roles -----------------------------------------------------------------------------------

    @property
    def lm(self) -> PreTrainedModel:
        """The base causal LM, LoRA layers inside."""
        return self.base.get_base_model() if isinstance(self.base, PeftModel) else self.base

    def switch(self, role: str) -> PreTrainedModel:
        """Makes the model speak as `role`, and returns the causal LM to call.

        THE one place that switches adapters.
        PEFT's `set_adapter` and disabling set `requires_grad` of every adapter as they go; without
        the last lines the adapters that are off would get no gradient, silently.
        """
        if role == "policy" and self.full_policy is not None:
            return self.full_policy
        # any other role would speak with the merged one's weights inside
        if self._merged not in (None, role):
            raise RuntimeError(
                f"the weights are merged with the {self._merged} adapter, so they cannot speak as "
                f"{role}"
            )
        if role != self._role:
            # merged weights speak for the adapter: on as well, it would count twice
            adapter = None if role == self._merged else ADAPTER[role]
            for layer in self._layers:
                if (adapter is None) != layer.disable_adapters:
                    layer.enable_adapters(adapter is not None)
                if adapter is not None:
                    layer.set_adapter(adapter)
            for parameter, trains in self._trains:
                parameter.requires_grad_(trains)
        self._role = role
        return self.lm

    @contextlib.contextmanager
    def merged(self, role: str) -> Iterator[None]:
        """For the block, `role` runs on plain weights W + BA, without the adapter's extra work.

        W itself is put aside and put back, never restored by subtraction, so it stays bit for bit
        what it was.
        """
        adapter, kept = ADAPTER[role], []
        try:
            for layer in self._layers:
                if adapter in layer.lora_A:
                    weight = layer.get_base_layer().weight
                    kept.append((weight, weight.data))
                    # a new tensor: in place, W would be lost to rounding
                    weight.data = weight.data + layer.get_delta_weight(adapter).to(weight.dtype)
            # role unknown, so that the next `switch` sets every layer
            self._merged, self._role = role, None
            yield
        finally:
            for weight, data in kept:
                weight.data = data
            self._merged, self._role = None, None

    def can_merge(self, role: str) -> bool:
        """Whether `merged` is exact enough to sample from: plain LoRA on float32 weights."""
        if role == "policy" and self.full_policy is not None:
            return False
        mine = [layer for layer in self._layers if ADAPTER[role] in layer.lora_A]
        # in bf16, W + BA rounds most of a small BA away: another policy than the trained one
        return bool(mine) and all(
            ADAPTER[role] not in layer.lora_variant
            and isinstance(layer.get_base_layer(), nn.Linear)
            and layer.get_base_layer().weight.dtype == torch.float32
            for layer in mine
        )

    # ---- forward ---------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor,
        rows: torch.Tensor,
        cols: torch.Tensor,
        roles: tuple[str, ...],
        tokens: torch.Tensor | None = None,
        temperature: float = 1.0,
        ptx: dict[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """What each role says at N positions of right-padded rows.

        One call for all roles, so that DDP sees one forward.
        Causal attention never looks right, so right padding needs no mask. Logits exist only for
        the N positions.

        Args:
            input_ids: [B, L], padded on the right with any id.
            rows, cols: [N] positions; the token after each is `tokens` [N].
            roles: of policy, reference (-> log-probability [N] of `tokens`), value, reward (->
                scalar [N]).
            ptx: another batch {input_ids, rows, cols, tokens}: its log-probabilities under the
                policy are `ptx`.
        """
        # the policy's trunk is kept: a value head reads it without a pass of its own
        out, hidden = {}, None
        for role in roles:
            if role == "value" and self.value_model == "head":
                if hidden is None:
                    hidden, _ = self._run("policy", input_ids, rows, cols, logits=False)
                out["value"] = self.value_head(hidden.float()).squeeze(-1)
            elif role in ("policy", "reference"):
                states, logits = self._run(role, input_ids, rows, cols, logits=True)
                out[role] = token_logprobs(logits, tokens, temperature)
                hidden = states if role == "policy" else hidden
            else:
                states, _ = self._run(role, input_ids, rows, cols, logits=False)
                head = self.reward_head if role == "reward" else self.value_head
                out[role] = head(states.float()).squeeze(-1)
        if ptx is not None:
            _, logits = self._run("policy", ptx["input_ids"], ptx["rows"], ptx["cols"], logits=True)
            # temperature 1: pretraining text is not sampled
            out["ptx"] = token_logprobs(logits, ptx["tokens"], 1.0)
        return out

    def _run(
        self, role: str, input_ids, rows, cols, logits: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One pass as `role` -> hidden states [N, d] at the positions; logits [N, V] if asked."""
        # the role goes on first; checkpointed layers remember it
        lm = self.switch(role)
        if not logits:
            body = getattr(lm, lm.base_model_prefix)
            return body(input_ids=input_ids, use_cache=False).last_hidden_state[rows, cols], None
        # The model's own forward, so that whatever it does to logits (scaling, soft caps) is done.
        # Only the head's input is cut to N positions: logits [B, L, V] would be the largest tensor.
        picked = []

        def pick(_, args):  # before the LM head: [B, L, d] -> [N, d]
            picked.append(args[0][rows, cols])
            return (picked[0], *args[1:])

        hook = lm.get_output_embeddings().register_forward_pre_hook(pick)
        try:
            spoken = lm(input_ids=input_ids, use_cache=False).logits
        finally:
            # or the next caller, sampling, would lose its positions
            hook.remove()
        return picked[0], spoken

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **kwargs
    ) -> None:
        """Recomputed layers run in the role they first ran in, whichever role is on by then."""

        def same_role():
            # asked in the forward, entered again at its recomputation
            role = self._role
            return contextlib.nullcontext(), _Enter(self, role)

        settings = {
            **(activation_checkpointing_kwargs or {}),
            # reentrant checkpointing takes no context_fn
            "use_reentrant": False,
            "context_fn": same_role,
        }
        for lm in filter(None, (self.full_policy, self.lm)):
            if hasattr(lm, "activation_checkpointing_enable"):
                lm.activation_checkpointing_enable(settings, **kwargs)
            else:
                lm.gradient_checkpointing_enable(settings)

    gradient_checkpointing_enable = activation_checkpointing_enable

    # ---- saving ----------------------------------------------------------------------------------

    def save_policy(self, folder: Path, state: dict | None = None) -> None:
        """The policy as plain PEFT (adapter at the top of `folder`), or as a plain model."""
        if self.full_policy is not None:
            self.full_policy.save_pretrained(folder, state_dict=part_of(state, "full_policy."))
        else:
            save_adapter(self.base, "default", folder, part_of(state, "base."))

    def save_value(self, folder: Path, state: dict | None = None) -> None:
        """The value function: its adapter (if it has one) and `value_head.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.value_model == "adapter":
            save_adapter(self.base, "value", folder, part_of(state, "base."))
        # a gathered state is given where weights are sharded; the live ones are only shards
        head = part_of(state, "value_head.") or self.value_head.state_dict()
        save_file({k: v.contiguous() for k, v in head.items()}, folder / "value_head.safetensors")

    def load_policy(self, folder: Path) -> None:
        if self.full_policy is not None:
            # by transformers: it knows shards of files and tied weights
            saved = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self.full_policy.dtype, use_safetensors=True
            )
            self.full_policy.load_state_dict(saved.state_dict())
        else:
            set_peft_model_state_dict(
                self.base, load_file(folder / "adapter_model.safetensors"), adapter_name="default"
            )

    def load_value(self, folder: Path) -> None:
        if self.value_model == "adapter":
            set_peft_model_state_dict(
                self.base, load_file(folder / "adapter_model.safetensors"), adapter_name="value"
            )
        self.value_head.load_state_dict(load_file(folder / "value_head.safetensors"))

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """What the policy trains, by name."""
        return {
            name: p
            for name, p in self.named_parameters()
            if p.requires_grad and (name.startswith("full_policy.") or ".default." in name)
        }

    def value_parameters(self) -> list[nn.Parameter]:
        """What the value function trains apart from the policy."""
        policy = self.policy_parameters()
        return [p for n, p in self.named_parameters() if p.requires_grad and n not in policy]


class _Enter(contextlib.nullcontext):
    """A context that switches to a role on entry.

    The role stays on: the next layer recomputed is mostly of the same one.
    """

    def __init__(self, shared: SharedBase, role: str):
        super().__init__()
        self.shared, self.role = shared, role

    def __enter__(self):
        self.shared.switch(self.role)
