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
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import get_quantization_config
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import pad, selective_log_softmax

from instruct.arguments import ModelConfig
from instruct.files import UserError
from instruct.finite import check_weights
from instruct.folders import MODEL_FILES, atomic_folder
from instruct.generation import base_of, left_pad
from instruct.hub import ask_hub
from instruct.tokens import encode_completion, encode_prompt, load_tokenizer


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _load_config(model_args: trl.ModelConfig, **shared) -> PretrainedConfig:
    name = model_args.model_name_or_path
    if not name:
        raise UserError("--model_name_or_path is missing: give a model folder or a Hub model id")
    ask_hub(name)
    try:
        config = AutoConfig.from_pretrained(name, **shared)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: no model there; give a model folder or a Hub model id ({_first_line(error)})"
        ) from error
    # its decoder sees no prompt ids, so the token contract would not hold
    if config.is_encoder_decoder:
        raise UserError(
            f"{name} is an encoder-decoder ({config.model_type}); "
            "these recipes train decoder-only models"
        )
    return config


def _from_pretrained(
    auto_class, model_args: trl.ModelConfig, trust_remote_code: bool, **kwargs
) -> PreTrainedModel:
    """A model by TRL's flags for revision, dtype, attention and quantization, else a UserError."""
    shared = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    # first, as it is small: a wrong name is told before anything large is loaded
    _load_config(model_args, **shared)
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        # quantised weights are placed while they load, and cannot be moved by Trainer later
        kwargs["quantization_config"] = quantization
        kwargs["device_map"] = {"": PartialState().local_process_index}
    dtype = model_args.dtype
    if dtype not in ("auto", None):
        dtype = getattr(torch, dtype)
    name = model_args.model_name_or_path
    try:
        loaded = auto_class.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=model_args.attn_implementation,
            # .bin weights are pickles, which run code of whoever made them
            use_safetensors=True,  # nothing is unpickled
            **shared,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: cannot be loaded as {auto_class.__name__}: {_first_line(error)}"
        ) from error
    # with output_loading_info it is a pair
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    check_weights(model, name)
    model.loaded_revision = model_args.model_revision
    return loaded


def revision_of(model: PreTrainedModel) -> str | None:
    """The revision that a model was loaded at by this module."""
    return getattr(model, "loaded_revision", None)


def load_causal_lm(model_args: trl.ModelConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """Loads a decoder-only LM by TRL's model flags (dtype, attention, quantization).

    Raises:
        UserError: nothing there, an encoder-decoder, or no safetensors.
    """
    return _from_pretrained(AutoModelForCausalLM, model_args, trust_remote_code)


def load_sequence_classifier(
    model_args: trl.ModelConfig, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Loads a model's body with a new scalar head (`num_labels=1`), the start of a reward model.

    Its `new_modules` names what came without trained weights besides the head (BERT's pooler):
    LoRA has to save those.
    """
    # transformers warns of the new head, which is meant
    with suppress_seqcls_warning():
        model, info = _from_pretrained(
            AutoModelForSequenceClassification,
            model_args,
            trust_remote_code,
            num_labels=1,
            output_loading_info=True,
        )
    # random and frozen under LoRA, they would be other ones after every load
    missing = {name.rpartition(".")[0] for name in info["missing_keys"]}
    model.new_modules = sorted(
        name for name in missing if name.split(".")[0] not in ("score", "classifier")
    )
    return model


def _base_of(adapter, path: str, dtype: str, base: str | None = None) -> ModelConfig:
    """The model to load: an adapter's base, at the revision it was trained on, else `path`."""
    if adapter is None:
        return ModelConfig(model_name_or_path=base or path, dtype=dtype)
    name = base or adapter.base_model_name_or_path
    # a base that has moved has no such revision
    revision = adapter.revision if base is None else None
    return ModelConfig(model_name_or_path=name, model_revision=revision or "main", dtype=dtype)


def load_policy(
    path: str, dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model to sample from and its tokenizer; `path` is a model or an adapter.

    In eval mode, on the GPU where there is one, an adapter merged into its base.
    """
    # imported here: a plain model needs no PEFT
    from peft import PeftConfig, PeftModel

    adapter = None
    if (Path(path) / "adapter_config.json").is_file():
        adapter = PeftConfig.from_pretrained(path)
    model = load_causal_lm(_base_of(adapter, path, dtype), trust_remote_code)
    if adapter is not None:
        # merged: sampling token by token would pay for the adapter at each of them
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    return model.eval().to(PartialState().device), tokenizer


def save_merged(adapter: str, output_dir: str, trust_remote_code: bool = False) -> None:
    """Writes `merged/`: base + adapter as one plain model with its tokenizer.

    The base is loaded as it is stored: an adapter of a 4-bit run is merged into 16 bits.
    """
    # under ZeRO-3 this one process would wait for the others to shard what it loads
    unset_hf_deepspeed_config()
    model, tokenizer = load_policy(adapter, "auto", trust_remote_code)
    # whole or not at all: the next step starts from whatever lies there
    with atomic_folder(Path(output_dir) / "merged", MODEL_FILES) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


@torch.no_grad()
def completion_logprobs(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], batch_size: int = 16
) -> list[float]:
    """log p(completion ids | prompt ids) of each pair, in nats, summed over the completion."""
    # written by row number, as batches are by length
    totals = [0.0] * len(pairs)
    # similar lengths share a batch
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    for start in range(0, len(order), batch_size):
        chunk = [pairs[i] for i in order[start : start + batch_size]]
        # by ids: tokenised together, words at the seam may be cut differently
        rows = [prompt + completion for prompt, completion in chunk]
        ids, mask = left_pad(rows, 0, model.device)
        # counted over real tokens: 0 pads here, and is a real token elsewhere
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        # padded on the left, completions end together: logits of the last few places are enough,
        # one more than the longest completion, as each place predicts the next
        keep = max(len(completion) for _, completion in chunk)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep + 1
        ).logits[:, :-1]
        logprobs = selective_log_softmax(logits.float(), ids[:, -keep:])
        for i, row in zip(order[start : start + batch_size], logprobs, strict=True):
            _, completion = pairs[i]
            totals[i] = row[keep - len(completion) :].sum().item()
    return totals


def last_token_scores(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Scores [rows] of right-padded rows, read at each row's last token (its eos).

    The head's own forward would look for the last id that is not pad, which is not the eos where
    pad = eos. Encoders pool in their own way and mask padding.
    """
    # the body, then the head on one token a row: the other scores are never used
    base = base_of(model)
    if not hasattr(base, "score"):
        return model(input_ids=input_ids, attention_mask=attention_mask).logits.squeeze(-1)
    body = getattr(base, base.base_model_prefix)
    hidden = body(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    # by length, never by looking for pad
    last = attention_mask.sum(1) - 1
    return base.score(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(-1)


class RewardModel:
    """A trained reward model: `score` is r(prompt, completion), the number every step uses.

    Attributes:
        model: sequence classifier with one label (a `PeftModel` when `path` holds an adapter).
        tokenizer: the tokenizer saved with it.
        bias: added to every score, so that labeler demonstrations score 0 on average (paper,
            section 3.5).
        base: path or id of the base model, the one the adapter was trained on.
    """

    def __init__(self, model, tokenizer, bias: float = 0.0, base: str | None = None):
        self.model, self.tokenizer, self.bias, self.base = model.eval(), tokenizer, bias, base

    @torch.no_grad()
    def score_ids(self, rows: list[list[int]], batch_size: int = 32) -> list[float]:
        """Scores rows of `prompt ids + completion ids + eos`; similar lengths share a batch."""
        # in the order asked, whatever the batches
        scores: list[float] = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            tensors = [torch.tensor(rows[i]) for i in chunk]
            ids = pad(tensors, self.tokenizer.pad_token_id).to(self.model.device)
            mask = pad([torch.ones_like(t) for t in tensors], 0).to(self.model.device)
            values = last_token_scores(self.model, ids, mask)
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
    # before its parent class below: not "no such file" but "no answer", and a bias that is taken
    # for missing would change every score in silence
    except LocalEntryNotFoundError as error:
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
    """The bias in `reward_head.json`; 0 for models that have none (of other authors)."""
    head = model_file(path, "reward_head.json")
    return json.loads(head.read_text())["bias"] if head else 0.0


def load_reward(
    path: str,
    base: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    device: str | None = None,
) -> RewardModel:
    """Loads a reward model: what `recipes/reward.py` saved, or a Hub classifier with one label.

    Args:
        path: folder or Hub id. With `adapter_config.json` the adapter is put on its base.
        base: base model, where the one named in the adapter has moved.
        device: where it goes; default it stays on the CPU.

    Raises:
        UserError: nothing there, or the Hub cannot say whether there is a bias.
    """
    from peft import PeftConfig, PeftModel

    try:
        # PEFT looks in folders and on the Hub alike
        peft_config = PeftConfig.from_pretrained(path)
    except ValueError:
        peft_config = None  # a full model
    source = _base_of(peft_config, path, dtype, base)
    # the head this makes is random: the adapter, or the checkpoint, brings the trained one
    model = load_sequence_classifier(source, trust_remote_code)
    if peft_config is not None:
        model = PeftModel.from_pretrained(model, path)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    # transformers' own forward refuses a batch without it
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model.to(device) if device else model
    return RewardModel(model, tokenizer, reward_bias(path), source.model_name_or_path)
