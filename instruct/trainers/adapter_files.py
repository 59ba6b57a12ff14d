"""Adapters in files: as PEFT writes them, whichever role they had, and which base they fit."""

import copy
from pathlib import Path

from accelerate import PartialState
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from instruct.fingerprints import hub_commit
from instruct.models import load_reward, revision_of


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
    """Whether `reward_path` is an adapter trained on exactly this base model."""
    # an adapter of another base of this shape would go on in silence, and score noise
    try:
        config = PeftConfig.from_pretrained(reward_path)
    except ValueError:
        return False  # a full model
    if not _same_place(config.base_model_name_or_path, model.name_or_path):
        return False
    if Path(model.name_or_path).is_dir():
        return True
    # on the Hub, one name stands for several models
    revisions = [revision or "main" for revision in (config.revision, revision_of(model))]
    theirs, ours = (hub_commit(model.name_or_path, name) or name for name in revisions)
    return theirs == ours


def reward_beside(reward_model, base: PreTrainedModel, device):
    """A reward model on weights of its own: a full one, or an adapter of another base.

    Args:
        reward_model: path or Hub id; an object that scores is passed through.
    """
    if not isinstance(reward_model, str):
        return reward_model
    if PartialState().is_main_process:
        print(f"{reward_model}: not an adapter of {base.name_or_path}, so it is loaded beside it")
    return load_reward(reward_model, device=str(device))


def _same_place(a: str | None, b: str | None) -> bool:
    if not a or not b:
        return False
    # one folder by two names; a Hub id is compared as it is
    folders = Path(a).is_dir() and Path(b).is_dir()
    return a == b or (folders and Path(a).resolve() == Path(b).resolve())
