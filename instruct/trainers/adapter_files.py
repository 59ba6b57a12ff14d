"""Adapters in files: as PEFT writes them, whichever role they had, and which base they fit."""

import copy
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from instruct.bases import places_of_base
from instruct.models import RewardModel, load_reward, revision_of
from instruct.reward_checks import weights_hash
from instruct.reward_files import adapter_config, reward_head
from instruct.run.fingerprints import hub_commit
from instruct.tokens import encode_prompts, template_columns


def part_of(state: dict | None, prefix: str) -> dict | None:
    """The entries of a state dict under `prefix`, without it; None of None."""
    if state is None:
        return None
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def save_adapter(base: PeftModel, name: str, folder: Path, state: dict | None) -> None:
    """One adapter as PEFT writes it, but at the top of `folder` whatever its name."""
    folder.mkdir(parents=True, exist_ok=True)
    # PEFT's save_pretrained puts all but `default` into a sub-folder of its name
    weights = get_peft_model_state_dict(base, state_dict=state, adapter_name=name)
    save_file(
        # safetensors refuses what is not contiguous
        {k: v.contiguous() for k, v in weights.items()},
        folder / "adapter_model.safetensors",
        {"format": "pt"},
    )
    # as PEFT's own: loaded, an adapter is for inference unless asked otherwise
    config = copy.copy(base.peft_config[name])
    config.inference_mode, config.base_model_name_or_path = True, base.get_base_model().name_or_path
    config.save_pretrained(folder)


def shares_base(reward_path: str, model: PreTrainedModel) -> bool:
    """Whether `reward_path` is an adapter that can be put on exactly this base model."""
    return _why_beside(reward_path, model) is None


def _why_beside(reward_path: str, model: PreTrainedModel) -> str | None:
    """Why a reward model needs weights of its own; None where it is an adapter of this base."""
    # an adapter of another base of this shape would go on in silence, and score noise
    config = adapter_config(reward_path)
    if config is None:
        return "a full model"
    # one that was moved is still the same
    recorded = reward_head(reward_path).get("base_weights")
    moved_here = recorded is not None and recorded == weights_hash(model.name_or_path)
    places = places_of_base(reward_path, config.base_model_name_or_path).found
    its_base = places[0].name if places else config.base_model_name_or_path
    if not moved_here and not _same_place(its_base, model.name_or_path):
        return f"its base is {its_base}"
    # roles are switched by LoRA layers: whatever else it trains would speak in every role
    saved = set(config.modules_to_save or ()) - {"score", "classifier"}
    if type(config) is not LoraConfig or config.bias != "none" or config.lora_bias:
        return "it is not of plain LoRA layers"
    if saved or config.trainable_token_indices or config.layer_replication:
        return "it has more than LoRA layers and a head"
    if Path(model.name_or_path).is_dir():
        return None
    # on the Hub, one name stands for several models
    revisions = [revision or "main" for revision in (config.revision, revision_of(model))]
    theirs, ours = (hub_commit(model.name_or_path, name) or name for name in revisions)
    return None if theirs == ours else f"its base is at {theirs}"


def reward_beside(reward_model, base: PreTrainedModel, args, asked: dict[str, Dataset | None]):
    """A reward model on weights of its own: a full one, or an adapter of another base.

    Args:
        reward_model: path or Hub id; an object that scores is passed through.
        args: the run's, with `device`, `trust_remote_code` and `response_length`.
        asked: name -> the prompts whose answers it will score.

    Raises:
        UserError: no reward model, or one with fewer positions than a prompt and its answer.
    """
    if not isinstance(reward_model, str):
        return reward_model
    if PartialState().is_main_process:
        why = _why_beside(reward_model, base)
        print(f"{reward_model}: loaded beside {base.name_or_path}, not on it ({why})")
    trust = args.trust_remote_code
    reward = load_reward(reward_model, device=str(args.device), trust_remote_code=trust)
    for name, rows in asked.items() if reward.limits.positions is not None else ():
        _check_positions(reward, rows, f"{reward_model}, {name} prompts", args.response_length)
    return reward


def _check_positions(reward: RewardModel, rows: Dataset | None, name: str, new: int) -> None:
    # by its own tokenizer; what of an answer its own makes more tokens of shows when it is scored
    columns = {} if rows is None else template_columns(rows)
    prompts = [] if rows is None else encode_prompts(reward.tokenizer, rows["prompt"], columns)
    for number, ids in enumerate(prompts, 1):
        shorter = "lower --response_length or --max_prompt_length, or take another reward model"
        reward.limits.check(ids, f"{name}, row {number}", new, shorter)


def _same_place(a: str | None, b: str | None) -> bool:
    if not a or not b:
        return False
    # one folder by two names; a Hub id is compared as it is
    folders = Path(a).is_dir() and Path(b).is_dir()
    return a == b or (folders and Path(a).resolve() == Path(b).resolve())
