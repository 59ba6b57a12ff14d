"""What makes a model a reward model: every weight it scores with was trained, and gives one number.

A head that is not in the weights would be drawn at random on every load, and score in silence.
Asked wherever a reward model is loaded: by `load_reward`, and on PPO's shared base.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from instruct.errors import UserError
from instruct.hashes import files_hash
from instruct.tokens import encode_completion

GIVE = "give what recipes/reward.py wrote, or a sequence classifier with one label"
HEADS = ("score", "classifier")  # what PEFT saves of a classifier by itself
IN_ADAPTER = "base_model.model."  # what PEFT writes before the name of a weight
# What a sequence classifier's adapter calls itself; None: PEFT was not told.
TASKS = (None, "SEQ_CLS", "FEATURE_EXTRACTION")


def _some(names) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_labels(path: str, count: int) -> None:
    if count != 1:
        raise UserError(
            f"{path}: a classifier of {count} labels, and a reward model gives one score; {GIVE}"
        )


@dataclass
class Untrained:
    """What of a classifier was not in the weights it was loaded from.

    Attributes:
        weights: names of weights that were drawn at random: a new head, an encoder's pooler.
        replaced_labels: labels of the head that a new one stands for; None where none does.
        unread: what was stored of a head, and has no place in this one.
    """

    weights: list[str]
    replaced_labels: int | None
    unread: list[str]

    @property
    def modules(self) -> list[str]:
        """Modules that LoRA has to save by name; the head it saves by itself."""
        modules = {name.rpartition(".")[0] for name in self.weights}
        return sorted(module for module in modules if module.split(".")[0] not in HEADS)


def untrained(path: str, model, info: dict) -> Untrained:
    """Reads what transformers says of a load (`output_loading_info`).

    Raises:
        UserError: the body's weights have other shapes than its configuration says.
    """
    body = f"{model.base_model_prefix}."
    # {name: its shape in the file}
    misfits = {name: found for name, found, _ in info["mismatched_keys"]}
    if wrong := sorted(name for name in misfits if name.startswith(body)):
        raise UserError(
            f"{path}: {wrong[0]} has another shape than its config.json says; copy that model anew"
        )
    # buffers are computed, not drawn
    parameters = {name for name, _ in model.named_parameters()}
    heads = {name.split(".")[0] for name in parameters if not name.startswith(body)}
    return Untrained(
        weights=sorted((set(info["missing_keys"]) | set(misfits)) & parameters),
        replaced_labels=next((shape[0] for shape in misfits.values()), None),
        unread=sorted(n for n in info["unexpected_keys"] if n.split(".")[0] in heads),
    )


def check_model(path: str, model) -> None:
    """That a full model, by `load_sequence_classifier`, came with every weight it scores with.

    Raises:
        UserError: a causal LM, a head of several labels or of another kind, weights that miss.
    """
    found, kind = model.untrained, (model.config.architectures or ["a model"])[0]
    if found.replaced_labels is not None:
        _check_labels(path, found.replaced_labels)
    body = f"{model.base_model_prefix}."
    if heads := [name for name in found.weights if not name.startswith(body)]:
        raise UserError(
            f"{path}: {kind} without a trained reward head ({_some(heads)} not in its weights), so "
            f"its scores would be random; {GIVE}"
        )
    if found.weights:
        raise UserError(
            f"{path}: {_some(found.weights)} not in its weights, so its scores would be random; "
            "copy that model anew"
        )
    if found.unread:
        raise UserError(
            f"{path}: {kind}, whose {_some(found.unread)} a reward model has no place for, so its "
            f"scores would be off; {GIVE}"
        )


def check_causal_lm(path: str, model, info: dict) -> None:
    """That a causal LM came with every weight, its output layer too, which a classifier has not.

    Args:
        info: what transformers says of a load (`output_loading_info`).

    Raises:
        UserError: one would be drawn at random on every load.
    """
    # buffers are computed, not drawn
    missing = sorted({name for name, _ in model.named_parameters()} & set(info["missing_keys"]))
    if not missing:
        return
    body = f"{model.base_model_prefix}."
    give = "give a causal LM, not a classifier or a reward model"
    if any(name.startswith(body) for name in missing):
        give = "copy that model anew"
    raise UserError(
        f"{path}: its weights hold no {_some(missing)}, so what it says would be random; {give}"
    )


def check_task(path: str, task_type: str | None) -> None:
    """That an adapter says it is one of a classifier. Raises `UserError`."""
    if task_type not in TASKS:
        raise UserError(
            f"{path}: an adapter of another task ({task_type}), which has no reward head; {GIVE}"
        )


def check_adapter(path: str, state: dict, needed) -> None:
    """That an adapter brings all that its base came without.

    Args:
        state: its weights, by PEFT's names.
        needed: names of weights that the base lacks: the head and, of an encoder, the pooler.

    Raises:
        UserError: one of them is not there, or the head is of several labels.
    """
    lacking = [name for name in needed if IN_ADAPTER + name not in state]
    heads = [name for name in lacking if name.split(".")[0] in HEADS]
    if lacking:
        what = f"has no `{heads[0].split('.')[0]}` head" if heads else "is not whole"
        raise UserError(
            f"{path}: the adapter {what} ({_some(heads or lacking)} not in its weights), so its "
            "scores would be random; train it with recipes/reward.py"
        )
    if (score := state.get(f"{IN_ADAPTER}score.weight")) is not None:
        _check_labels(path, len(score))


def check_fits(path: str, base: str, state: dict, wanted: dict) -> None:
    """That an adapter's weights are those that it would have on this base.

    PEFT loads what fits and drops the rest.

    Args:
        wanted: the weights of such an adapter on `base`, by PEFT's names.

    Raises:
        UserError: other names or shapes.
    """
    theirs, ours = ({k: v.shape for k, v in weights.items()} for weights in (state, wanted))
    if theirs != ours:
        raise does_not_fit(path, base)


def does_not_fit(path: str, base: str) -> UserError:
    return UserError(
        f"{path}: the adapter's weights do not fit this base model, {base} (is it the base they "
        "were trained on?)"
    )


def weights_hash(base: str) -> str | None:
    """One hash of the weights in a model's folder; None of a Hub id, which has its commits."""
    # not the tokenizer or a generation config: no score reads those of the base
    files = sorted(Path(base).glob("model*.safetensors"))
    return files_hash(files) if files else None


def check_base(path: str, head: dict, base: str, named: str | None = None) -> None:
    """That a base in a folder holds the weights that the adapter was trained on.

    Args:
        head: its `reward_head.json`; without `base_weights` (other authors) only `named` can say.
        named: the base by the adapter's own word, where `base` is another.

    Raises:
        UserError: it holds others.
    """
    recorded = head.get("base_weights") or (named and weights_hash(named))
    found = recorded and weights_hash(base)
    # of the same shape they would load, and score noise
    if found and found != recorded:
        raise UserError(
            f"{path}: its base model {base} holds other weights than those it was trained on; put "
            "those back, or train the reward model again with recipes/reward.py"
        )


def tokenizer_differences(one, other) -> list[str]:
    """In what two tokenizers render, cut or end a text differently."""
    found = [] if one.chat_template == other.chat_template else ["chat template"]
    if _words(one) != _words(other):
        found.append("tokenizer")
    if _ends(one) != _ends(other):
        found.append("end of an answer")
    return found


def tell_own_tokenizer(its_own, policys) -> None:
    """Says in a line where a reward model does not read a text as the policy wrote it."""
    found = tokenizer_differences(its_own, policys) if its_own is not None else []
    if found and PartialState().is_main_process:
        print(
            f"the reward model has another {' and '.join(found)} than the policy: texts are scored "
            "with its own"
        )


def _ends(tokenizer) -> list[str]:
    """The tokens around a text: what a template may write, and what is put after a completion."""
    end = tokenizer.convert_ids_to_tokens(encode_completion(tokenizer, ""))
    return [tokenizer.bos_token, tokenizer.eos_token, *end]


def _words(tokenizer) -> dict:
    """What decides the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    # padding and truncation are settings of the last call
    return json.loads(backend.to_str()) | {"padding": None, "truncation": None}
