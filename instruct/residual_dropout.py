"""Residual dropout (InstructGPT, App. C.1: 0.2), where an architecture has any.

GPT-2, GPT-J, GPT-Neo, GPT-NeoX (Pythia), OPT, Phi, BLOOM, Falcon, StarCoder2 and others have it;
Llama, Qwen, Mistral, Gemma and SmolLM do not: there LoRA dropout stands in.
"""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from instruct.errors import UserError

# what configurations, and layers that keep the number, call it
NAMES = (
    "resid_pdrop", "resid_dropout", "residual_dropout", "hidden_dropout", "hidden_dropout_prob",
    "dropout",
)  # fmt: skip


def config_changes(config: PretrainedConfig, rate: float, name: str) -> dict[str, float]:
    """{attribute: rate}: what of the configuration to change for that residual dropout.

    Raises:
        UserError: it has none; `name` is the model's.
    """
    found = {key: rate for key in NAMES if key in config.to_dict()}
    if not found:
        raise _refusal(rate, name)
    return found


def check_in_layers(
    model: PreTrainedModel, config: PretrainedConfig, rate: float, name: str
) -> None:
    """After a model was made with `config_changes`: that its layers have the rate. Gives its
    configuration back what it was.

    What is saved says nothing of a rate of one run: later steps train without dropout.

    Args:
        config: before the changes.

    Raises:
        UserError: no layer has it: the configuration names what its model does not use.
    """
    for key in config_changes(config, rate, name):
        setattr(model.config, key, getattr(config, key))
    if not any(_has(layer, rate) for layer in model.modules()):
        raise _refusal(rate, name)


def _has(layer: nn.Module, rate: float) -> bool:
    if isinstance(layer, nn.Dropout):
        return layer.p == rate
    return any(vars(layer).get(key) == rate for key in NAMES)


def _refusal(rate: float, name: str) -> UserError:
    return UserError(
        f"--residual_dropout {rate:g}: {name} has no residual dropout; leave it out, and give "
        f"--lora_dropout {rate:g}"
    )
