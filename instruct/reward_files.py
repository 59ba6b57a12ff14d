"""What lies in a reward model's folder or Hub repository: its bias, its adapter, and its base.

One place reads them, for `load_reward` and for PPO's shared base.
"""

import json
import math
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from instruct.bases import adapter_folder, there, why_not
from instruct.checks.finite import bad_weight, holds
from instruct.checks.model_files import check_safetensors, check_weight_files, json_object
from instruct.command.known_errors import sentence_of
from instruct.errors import UserError
from instruct.hub import ask_hub
from instruct.plain_text import one_line
from instruct.reward_checks import check_adapter, check_fits, check_task, does_not_fit
from instruct.tokens import load_tokenizer

# In `reward_head.json`: the token at which its scores are read.
END = "end_of_turn"


def model_file(folder_or_id: str | Path, name: str) -> Path | None:
    """A file of a local folder or a Hub repository; None where it has no such file."""
    if Path(folder_or_id).is_dir():
        path = Path(folder_or_id) / name
        return path if path.is_file() else None
    ask_hub(folder_or_id)
    try:
        return Path(hf_hub_download(str(folder_or_id), name))
    # before its parent class below: not "no such file" but "no answer", and a bias that is taken
    # for missing would change every score in silence
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{folder_or_id}: no such folder here, and the Hub cannot be reached to ask for its "
            f"{name}, nor is it in the cache"
        ) from error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        known = sentence_of(error) or "no folder and no repository of the Hub that can be read"
        raise UserError(f"{folder_or_id}: {known}") from error


def _is_on_hub(repo_id: str, name: str) -> bool:
    """Whether a repository of the Hub, or what its cache here holds of it, has a file."""
    try:
        return model_file(repo_id, name) is not None
    except UserError:
        return False


def model_folder(path: str | None, wanted: str) -> str | None:
    """A model as it is loaded: an adapter by its folder, downloaded where it is on the Hub.

    Args:
        wanted: see `instruct.bases.there`.

    Raises:
        UserError: a folder that holds no model.
    """
    path = there(path, wanted)
    if not path or Path(path).is_dir() or _is_on_hub(path, "config.json"):
        return path
    return adapter_folder(path) if _is_on_hub(path, "adapter_config.json") else path


def has_model(folder: str | Path) -> bool:
    """Whether a model or an adapter lies in a local folder."""
    names = ("config.json", "adapter_config.json")
    return any((Path(folder) / name).is_file() for name in names)


def reward_head(path: str) -> dict:
    """`reward_head.json`; empty for models that have none (of other authors).

    Raises:
        UserError: it cannot be read, or its bias is no finite number.
    """
    file = model_file(path, "reward_head.json")
    if file is None:
        return {}
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
        if not math.isfinite(head["bias"]):
            raise ValueError(f"bias {head['bias']}")
        if not isinstance(head.get(END, ""), str):
            raise ValueError(f"{END} {head[END]}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: its reward_head.json has no bias that can be read ({error}); copy that "
            "reward model anew"
        ) from error
    return head


def reward_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model, with the end of an answer that it was trained on.

    Raises:
        UserError: none can be loaded, or its `reward_head.json` cannot be read.
    """
    head, trust = reward_head(path), {"trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(path, eos_token=head.get(END), **trust)
    # Before this was recorded, answers ended in the tokenizer's eos, whatever its template writes.
    # Of other authors, without a head file, nothing is known: there the template says.
    if head and END not in head:
        was = AutoTokenizer.from_pretrained(path, **trust).eos_token
        if was not in (None, tokenizer.eos_token):
            return load_tokenizer(path, eos_token=was, **trust)
    return tokenizer


def peft_config(path: str) -> PeftConfig | None:
    """The configuration of an adapter of any task; None of a full model.

    Raises:
        UserError: its `adapter_config.json` is cut, or says what no adapter's does.
    """
    file = model_file(path, "adapter_config.json")
    if file is None:
        return None
    settings = json_object(file, "adapter")
    base = settings.get("base_model_name_or_path")
    try:
        if not isinstance(base, str | None):
            raise TypeError(f"base_model_name_or_path is {base!r}")
        if settings.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
            raise ValueError(f"no such peft_type: {settings.get('peft_type')!r}")
        return PeftConfig.from_pretrained(str(file.parent))
    # PEFT checks little of what it reads
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file}: says what no adapter of this PEFT does ({one_line(str(error), 200)}); copy "
            "that adapter anew, or pip install -U peft"
        ) from error


def why_no_model(name: str) -> str | None:
    """What to give where a model was asked for and a folder holds none; None: nobody knows."""
    adapter = peft_config(name) if Path(name).is_dir() else None
    meant = why_not(name, "model")
    if meant is not None or adapter is None:
        return meant
    what = f"an adapter of {adapter.base_model_name_or_path} and no model to start from"
    if adapter.task_type not in (None, "CAUSAL_LM"):
        return f"{what}; give the model that it was trained from, or another one"
    return f"{what}; merge it first (recipes/sft.py does, recipes/ppo.py with --save_merged)"


def adapter_config(path: str) -> PeftConfig | None:
    """A reward adapter's `PeftConfig`, with the revision of its base; None of a full model.

    Raises:
        UserError: an adapter of another task than a classifier's.
    """
    config = peft_config(path)
    if config is None:
        return None
    check_task(path, config.task_type)
    # what `main` of the Hub was then
    config.revision = config.revision or reward_head(path).get("base_commit")
    return config


def adapter_weights(path: str) -> dict[str, torch.Tensor]:
    """A reward adapter's weights by PEFT's names. Raises `UserError` where not in safetensors."""
    check_weight_files(path, "adapter_model")
    file = model_file(path, "adapter_model.safetensors")
    if file is None:
        raise UserError(
            f"{path}: no adapter_model.safetensors there; the reward adapter has to be safetensors"
        )
    check_safetensors(file)
    state = load_file(file)
    found = bad_weight(state.items())
    if found is not None:
        raise holds(path, *found)
    return state


def with_adapter(model: PreTrainedModel, path: str, config: PeftConfig, base: str) -> PeftModel:
    """The classifier with the reward adapter on it, whole and on the base it was trained on."""
    state = adapter_weights(path)
    # where it is now: PEFT looks there whether the vocabulary has grown
    config.base_model_name_or_path = base
    check_adapter(path, state, model.untrained.weights)
    try:
        model = PeftModel.from_pretrained(model, path, config=config)
    # modules that are not there, other shapes, a module that it saves and the base lacks
    except (RuntimeError, ValueError, KeyError) as error:
        raise does_not_fit(path, base) from error
    check_fits(path, base, state, get_peft_model_state_dict(model))
    return model
