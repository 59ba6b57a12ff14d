"""Models: one way to load causal LMs and reward models, and to score with them, for all steps."""

import contextlib
import functools
from pathlib import Path

import torch
import trl
from accelerate import PartialState
from peft import PeftConfig
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging as transformers_logging
from trl import get_quantization_config
from trl.trainer.utils import pad

from instruct import merging
from instruct.arguments import ModelConfig
from instruct.bases import hub_folder, places_of_base
from instruct.checks.finite import check_weights
from instruct.checks.flag_ranges import DTYPES
from instruct.checks.model_files import check_weight_files
from instruct.checks.model_limits import Limits, check_special_tokens, limits_of
from instruct.checks.pickles import pickled
from instruct.checks.score_functions import check_lists, checked_scores
from instruct.command.known_errors import sentence_of
from instruct.errors import UserError, first_line
from instruct.hub import ask_hub
from instruct.prompt_cache import base_of
from instruct.residual_dropout import check_in_layers, config_changes
from instruct.reward_checks import check_base, check_causal_lm, check_model, untrained
from instruct.reward_files import (
    adapter_config,
    model_folder,
    peft_config,
    reward_head,
    reward_tokenizer,
    why_no_model,
    with_adapter,
)
from instruct.run.folders import MODEL_FILES, atomic_folder
from instruct.tokens import encode_pairs, load_tokenizer
from instruct.turns import agree_on_end


def _load_config(model_args: trl.ModelConfig, trust_remote_code: bool) -> PretrainedConfig:
    name = model_args.model_name_or_path
    if not name:
        raise UserError("--model_name_or_path is missing: give a model folder or a Hub model id")
    ask_hub(name)
    try:
        config = AutoConfig.from_pretrained(
            name, revision=model_args.model_revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        known = sentence_of(error) or why_no_model(name)
        missing = f"no model there; give a model folder or a Hub model id ({first_line(error)})"
        raise UserError(f"{name}: {known or missing}") from error
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
    # first, as it is small: a wrong name is told before anything large is loaded
    _load_config(model_args, trust_remote_code)
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        # quantised weights are placed while they load, and cannot be moved by Trainer later
        kwargs["quantization_config"] = quantization
        kwargs["device_map"] = {"": PartialState().local_process_index}
    dtype = model_args.dtype
    if dtype not in (*DTYPES, None):
        raise UserError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    name = model_args.model_name_or_path
    check_weight_files(name, "model")
    try:
        loaded = auto_class.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=model_args.attn_implementation,
            # .bin weights are pickles, which run code of whoever made them
            use_safetensors=True,  # nothing is unpickled
            revision=model_args.model_revision,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
    except (OSError, ValueError, SafetensorError) as error:
        # a folder with pickles is refused above
        if "file named model.safetensors" in str(error) and not Path(name).is_dir():
            raise pickled(name) from error
        unknown = f"cannot be loaded as {auto_class.__name__}: {first_line(error)}"
        raise UserError(f"{name}: {sentence_of(error) or unknown}") from error
    # with output_loading_info it is a pair
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    check_weights(model, name)
    model.loaded_revision = model_args.model_revision
    return loaded


def load_limits(
    model_args: trl.ModelConfig, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool = False
) -> Limits:
    """What rows the model can take, from its configuration alone.

    Raises:
        UserError: no model there, or its tokenizer pads with what it has no embedding for.
    """
    config = _load_config(model_args, trust_remote_code)
    check_special_tokens(config, tokenizer, model_args.model_name_or_path)
    return limits_of(config)


def revision_of(model: PreTrainedModel) -> str | None:
    """The revision that a model was loaded at by this module."""
    return getattr(model, "loaded_revision", None)


def load_causal_lm(
    model_args: trl.ModelConfig,
    trust_remote_code: bool = False,
    residual_dropout: float | None = None,
) -> PreTrainedModel:
    """Loads a decoder-only LM by TRL's model flags (dtype, attention, quantization).

    Raises:
        UserError: nothing there, an encoder-decoder, no safetensors, weights that miss (as a model
            of another task has no output layer), or no residual dropout where a rate is given.
    """
    name, changes = model_args.model_name_or_path, {}
    if residual_dropout is not None:
        config = _load_config(model_args, trust_remote_code)
        changes = config_changes(config, residual_dropout, name)
    model, info = _from_pretrained(
        AutoModelForCausalLM, model_args, trust_remote_code, output_loading_info=True, **changes
    )
    if changes:
        check_in_layers(model, config, residual_dropout, name)
    check_causal_lm(name, model, info)
    return model


@contextlib.contextmanager
def _without_load_report():
    """Mutes what transformers says of weights that miss: who loads decides that, by name."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def load_sequence_classifier(
    model_args: trl.ModelConfig, trust_remote_code: bool = False, labels: int | None = 1
) -> PreTrainedModel:
    """Loads a model's body with a scalar head (`num_labels=1`), the start of a reward model.

    Its `untrained` says what of it was not in the weights, mostly the head (`Untrained`).

    Args:
        labels: of the head; None: as many as its configuration says, for another classifier.

    Raises:
        UserError: nothing there, or weights of other shapes than its configuration says.
    """
    with _without_load_report():
        model, info = _from_pretrained(
            AutoModelForSequenceClassification,
            model_args,
            trust_remote_code,
            output_loading_info=True,
            # a head of two labels: told, not a traceback
            ignore_mismatched_sizes=True,
            **({} if labels is None else {"num_labels": labels}),
        )
    model.untrained = untrained(model_args.model_name_or_path, model, info)
    return model


def _base_of(
    adapter, path: str, dtype: str, base: str | None = None, trust_remote_code: bool = False
) -> ModelConfig:
    """The model to load: an adapter's base, at the revision it was trained on, else `path`."""
    if adapter is None or base:
        return ModelConfig(model_name_or_path=hub_folder(base or path), dtype=dtype)
    named = adapter.base_model_name_or_path
    places = places_of_base(path, named, adapter.revision)
    if not named and not places.found:
        raise UserError(f"{path}: its adapter_config.json names no base model; write it there")
    for place in places.found:
        revision = place.revision or "main"
        try:
            name = hub_folder(place.name, place.revision)
            source = ModelConfig(model_name_or_path=name, model_revision=revision, dtype=dtype)
            if not Path(name).is_dir():
                _load_config(source, trust_remote_code)
            return source
        except UserError as error:
            places.tried.append(f"not as {place.name} ({first_line(error.__cause__ or error)})")
    raise places.missing(path)


def policy_source(
    path: str, dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[str, PeftConfig | None, ModelConfig]:
    """A policy's folder or Hub id, the adapter in it (None of a whole model), and what to load.

    Raises:
        UserError: no model there, or an adapter whose base is nowhere.
    """
    folder = model_folder(path, "policy")
    adapter = peft_config(folder) if Path(folder).is_dir() else None
    if adapter is not None:
        merging.check_adapter_merges(path, adapter)
    return folder, adapter, _base_of(adapter, path, dtype, None, trust_remote_code)


def load_policy(
    path: str, dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model to sample from and its tokenizer; `path` is a model or an adapter.

    In eval mode, on the GPU where there is one, an adapter merged into its base.

    Raises:
        UserError: nothing there, or an adapter that cannot be merged.
    """
    model, tokenizer = _load_merged(path, dtype, trust_remote_code)
    return model.to(PartialState().device), tokenizer


def _load_merged(
    path: str, dtype: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_policy`, left on the CPU."""
    path, adapter, source = policy_source(path, dtype, trust_remote_code)
    if adapter is not None:
        check_stored_for_merging(source, trust_remote_code)
    model = load_causal_lm(source, trust_remote_code)
    if adapter is not None:
        # merged: sampling token by token would pay for the adapter at each of them
        model = merging.merge(model, path)
        if (Path(path) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    agree_on_end(model, tokenizer)
    return model.eval(), tokenizer


def why_not_merged(model_args: trl.ModelConfig, trust_remote_code: bool = False) -> str | None:
    """Why no adapter of this base can be merged into it, known before training; None: one can.

    Raises:
        UserError: nothing is there.
    """
    config = _load_config(model_args, trust_remote_code)
    return merging.why_base_does_not_merge(model_args.model_name_or_path, config)


def check_stored_for_merging(model_args: trl.ModelConfig, trust_remote_code: bool = False) -> None:
    """Raises `UserError` where `why_not_merged` has a reason."""
    if why := why_not_merged(model_args, trust_remote_code):
        raise UserError(why)


def save_merged(adapter: str, output_dir: str, trust_remote_code: bool = False) -> None:
    """Writes `merged/`: base + adapter as one plain model with its tokenizer.

    The base is loaded as it is stored: an adapter of a 4-bit run is merged into 16 bits.

    Raises:
        UserError: it cannot be merged, or what was written says something else when it is loaded.
    """
    # under ZeRO-3 this one process would wait for the others to shard what it loads
    unset_hf_deepspeed_config()
    # on the CPU: the GPU is still full of what was trained
    model, tokenizer = _load_merged(adapter, "auto", trust_remote_code)
    says = merging.logits_on_a_few_ids(model)
    # whole or not at all: the next step starts from whatever lies there
    with atomic_folder(Path(output_dir) / "merged", MODEL_FILES) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        del model  # one copy in memory is enough
        again = load_causal_lm(
            ModelConfig(model_name_or_path=str(beside), dtype="auto"), trust_remote_code
        )
        merging.check_says(adapter, merging.logits_on_a_few_ids(again), says)


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

    @functools.cached_property
    def limits(self) -> Limits:
        """What rows it can take."""
        return limits_of(self.model.config)

    @torch.no_grad()
    def score_ids(self, rows: list[list[int]], batch_size: int = 32) -> list[float]:
        """Scores rows of `prompt ids + completion ids + eos`; similar lengths share a batch."""
        for number, row in enumerate(rows, 1):
            self.limits.check(row, f"the reward model, text {number}")
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

    def score(
        self, prompts: list, completions: list, batch_size: int = 32, **columns
    ) -> list[float]:
        """Scores prompts (text or messages) with completions (text or messages), one float each.

        Args:
            columns: `tools` and `chat_template_kwargs` of each prompt, where there are any.

        Raises:
            UserError: not two lists of one length.
        """
        check_lists(prompts, completions)
        pairs = encode_pairs(self.tokenizer, prompts, completions, columns)
        scores = self.score_ids([prompt + completion for prompt, completion in pairs], batch_size)
        return checked_scores(scores, "the reward model", completions)


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
        UserError: nothing there, no reward model (see `instruct.reward_checks`), another base than
            the adapter was trained on, or the Hub cannot say whether there is a bias.
    """
    asked, path = path, model_folder(path, "reward")
    config, head = adapter_config(path), reward_head(path)
    source = _base_of(config, asked if config else path, dtype, base, trust_remote_code)
    if config is not None:
        named = config.base_model_name_or_path if base else None
        check_base(path, head, source.model_name_or_path, named)
    try:
        # where the head is new, the adapter has to bring the trained one
        model = load_sequence_classifier(source, trust_remote_code)
    except UserError as error:
        raise UserError(f"reward model {path}: {error}") from error
    if config is None:
        check_model(path, model)
    else:
        model = with_adapter(model, path, config, source.model_name_or_path)
    tokenizer = reward_tokenizer(path, trust_remote_code)
    check_special_tokens(model.config, tokenizer, path)
    # transformers' own forward refuses a batch without it
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model.to(device) if device else model
    return RewardModel(model, tokenizer, head.get("bias", 0.0), source.model_name_or_path)
