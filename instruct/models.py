"""Models: one way to load causal LMs and reward models, and to score with them, for all steps."""

import json
from pathlib import Path

import torch
import trl
from accelerate import PartialState
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import get_quantization_config
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import pad, selective_log_softmax

from instruct.arguments import ModelConfig
from instruct.files import UserError, atomic_folder
from instruct.generation import left_pad
from instruct.tokens import encode_completion, encode_prompt, load_tokenizer


def _from_pretrained(
    auto_class, model_args: trl.ModelConfig, trust_remote_code: bool, **kwargs
) -> PreTrainedModel:
    name = model_args.model_name_or_path
    if not name:
        raise UserError("--model_name_or_path is missing: give a model folder or a Hub model id")
    shared = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **shared)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: no model there; give a model folder or a Hub model id ({str(error).splitlines()[0]})"
        ) from error
    if config.is_encoder_decoder:
        raise UserError(
            f"{name} is an encoder-decoder ({config.model_type}); these recipes train decoder-only models"
        )
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        kwargs |= {
            "quantization_config": quantization,
            "device_map": {"": PartialState().local_process_index},
        }
    dtype = (
        model_args.dtype if model_args.dtype in ("auto", None) else getattr(torch, model_args.dtype)
    )
    try:
        return auto_class.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=model_args.attn_implementation,
            use_safetensors=True,
            **shared,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: cannot be loaded as {auto_class.__name__}: {str(error).splitlines()[0]}"
        ) from error


def load_causal_lm(model_args: trl.ModelConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """Loads a decoder-only LM (safetensors only) with dtype, attention and quantization from TRL's model flags."""
    return _from_pretrained(AutoModelForCausalLM, model_args, trust_remote_code)


def load_sequence_classifier(
    model_args: trl.ModelConfig, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Loads the body of a model with a new scalar head (`num_labels=1`), the start of a reward model.

    Its `new_modules` names what came without trained weights besides the head (BERT's pooler): LoRA has to save those.
    """
    with suppress_seqcls_warning():
        model, info = _from_pretrained(
            AutoModelForSequenceClassification,
            model_args,
            trust_remote_code,
            num_labels=1,
            output_loading_info=True,
        )
    missing = {name.rpartition(".")[0] for name in info["missing_keys"]}
    model.new_modules = sorted(
        name for name in missing if name.split(".")[0] not in ("score", "classifier")
    )
    return model


def load_policy(
    path: str, dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model to sample from (eval mode, on the GPU where there is one) and its tokenizer; adapters go on their base."""
    from peft import PeftConfig, PeftModel

    adapter = (Path(path) / "adapter_config.json").is_file()
    base = PeftConfig.from_pretrained(path).base_model_name_or_path if adapter else path
    model = load_causal_lm(ModelConfig(model_name_or_path=base, dtype=dtype), trust_remote_code)
    if adapter:
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    return model.eval().to(PartialState().device), load_tokenizer(
        path, trust_remote_code=trust_remote_code
    )


def save_merged(adapter: str, output_dir: str, trust_remote_code: bool = False) -> None:
    """Writes `merged/`: base + adapter as one plain model with its tokenizer (from a 4-bit run: on the base in 16 bits)."""
    unset_hf_deepspeed_config()  # under ZeRO-3 this one process would wait for the others to shard what it loads
    model, tokenizer = load_policy(adapter, "auto", trust_remote_code)
    with atomic_folder(Path(output_dir) / "merged") as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


@torch.no_grad()
def completion_logprobs(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], batch_size: int = 16
) -> list[float]:
    """log p(completion ids | prompt ids) in nats of each pair; logits are computed for completion tokens only."""
    totals, order = (
        [0.0] * len(pairs),
        sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i]))),
    )
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        ids, mask = left_pad([pairs[i][0] + pairs[i][1] for i in chunk], 0, model.device)
        keep = max(len(pairs[i][1]) for i in chunk)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep + 1
        ).logits[:, :-1]
        logprobs = selective_log_softmax(logits.float(), ids[:, -keep:])
        for i, row in zip(chunk, logprobs, strict=True):
            totals[i] = row[keep - len(pairs[i][1]) :].sum().item()
    return totals


def last_token_scores(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Scores [rows] of right-padded rows, read at each row's last token (its eos), also where pad = eos.

    The head's own forward would look for the last id that is not pad. Encoders pool in their own way and mask padding.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(base, "score"):
        return model(input_ids=input_ids, attention_mask=attention_mask).logits.squeeze(-1)
    body = getattr(base, base.base_model_prefix)
    hidden = body(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    last = attention_mask.sum(1) - 1
    return base.score(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(-1)


class RewardModel:
    """A trained reward model with its tokenizer and bias: `score` is r(prompt, completion) - the number every step uses.

    Attributes:
        model: sequence classifier with one label (a `PeftModel` when `path` holds an adapter).
        tokenizer: the tokenizer saved with it.
        bias: added to every score, so that labeler demonstrations score 0 on average (paper, section 3.5).
        base: path or id of the base model, the one the adapter was trained on.
    """

    def __init__(self, model, tokenizer, bias: float = 0.0, base: str | None = None):
        self.model, self.tokenizer, self.bias, self.base = model.eval(), tokenizer, bias, base

    @torch.no_grad()
    def score_ids(self, rows: list[list[int]], batch_size: int = 32) -> list[float]:
        """Scores rows of `prompt ids + completion ids + eos`; similar lengths share a batch."""
        scores: list[float] = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            tensors = [torch.tensor(rows[i]) for i in chunk]
            ids, mask = (
                pad(tensors, self.tokenizer.pad_token_id),
                pad([torch.ones_like(t) for t in tensors], 0),
            )
            values = last_token_scores(
                self.model, ids.to(self.model.device), mask.to(self.model.device)
            )
            for i, value in zip(chunk, values.float().tolist(), strict=True):
                scores[i] = value + self.bias
        return scores

    def score(self, prompts: list, completions: list, batch_size: int = 32) -> list[float]:
        """Scores prompts (text or messages) with completions (text or messages), one float each."""
        rows = [
            encode_prompt(self.tokenizer, p) + encode_completion(self.tokenizer, c)
            for p, c in zip(prompts, completions, strict=True)
        ]
        return self.score_ids(rows, batch_size)


def model_file(folder_or_id: str | Path, name: str) -> Path | None:
    """A file of a local folder or a Hub repository; None where it has no such file."""
    if Path(folder_or_id).is_dir():
        path = Path(folder_or_id) / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(folder_or_id), name))
    except LocalEntryNotFoundError as error:  # a missing bias would change every score in silence
        raise UserError(
            f"{folder_or_id}: cannot reach the Hub to ask for its {name}, nor is it in the cache"
        ) from error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder_or_id}: no folder and no repository of the Hub that can be read"
        ) from error


def reward_bias(path: str) -> float:
    """The bias in `reward_head.json`, by which labeler demonstrations score 0 on average; 0 for models that have none."""
    head = model_file(path, "reward_head.json")
    return json.loads(head.read_text())["bias"] if head else 0.0


def load_reward(
    path: str,
    base: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    device: str | None = None,
) -> RewardModel:
    """Loads what `recipes/reward.py` saved (adapter or full model), or any Hub sequence classifier with one label.

    Args:
        path: folder or Hub id. With `adapter_config.json` the adapter is put on its base.
        base: base model, where the one named in the adapter has moved.
    """
    from peft import PeftConfig, PeftModel

    try:
        peft_config = PeftConfig.from_pretrained(path)
    except ValueError:
        peft_config = None  # a full model
    base = base or (peft_config.base_model_name_or_path if peft_config else path)
    model = load_sequence_classifier(
        ModelConfig(model_name_or_path=base, dtype=dtype), trust_remote_code
    )
    if peft_config is not None:
        model = PeftModel.from_pretrained(model, path)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    model.config.pad_token_id = tokenizer.pad_token_id
    return RewardModel(model.to(device) if device else model, tokenizer, reward_bias(path), base)
