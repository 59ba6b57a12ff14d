"""Names of modules in LoRA's flags: each has to be there, and what is there is listed."""

import re

from peft import PeftConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from instruct.errors import UserError

TRAINABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHOWN = 20  # names in a sentence


def settle_lora_names(config: PeftConfig, model: nn.Module) -> None:
    """Checks the module names of a LoRA configuration against a model.

    A single name is what a list of it would be: TRL hands it on as a pattern for whole names.

    Raises:
        UserError: a name, or a pattern, that no module has; lists those that are there.
    """
    modules = dict(model.named_modules())
    targets = config.target_modules
    if isinstance(targets, str) and targets != "all-linear":
        if any(_is_called(name, targets) for name in modules):
            targets = config.target_modules = {targets}
        elif not _matches(targets, modules):
            raise _unknown("lora_target_modules", targets, modules, TRAINABLE)
    if not isinstance(targets, str):
        for wanted in sorted(targets or ()):
            if not any(_is_called(name, wanted) for name in modules):
                raise _unknown("lora_target_modules", wanted, modules, TRAINABLE)
    parameters = [name for name, _ in model.named_parameters()]
    for wanted in config.target_parameters or ():
        if not any(_is_called(name, wanted) for name in parameters):
            raise UserError(
                f"--lora_target_parameters {wanted}: the model has no parameter of that name; its "
                f"names are like {parameters[len(parameters) // 2]}"
            )
    for wanted in config.modules_to_save or ():
        if not any(_is_called(name, wanted) for name in modules):
            raise _unknown("lora_modules_to_save", wanted, modules, nn.Module)


def _is_called(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _matches(pattern: str, modules: dict) -> bool:
    try:
        return any(re.fullmatch(pattern, name) for name in modules)
    except re.error:
        return False


def _unknown(flag: str, wanted: str, modules: dict, kinds) -> UserError:
    # the last part; those of a list of layers are numbers
    names = {
        name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, kinds)
    }
    shown = sorted(name for name in names if name and not name.isdigit())
    more = ", …" if len(shown) > SHOWN else ""
    also = "; all-linear takes all layers" if flag == "lora_target_modules" else ""
    return UserError(
        f"--{flag} {wanted}: the model has no module of that name; "
        f"it has {', '.join(shown[:SHOWN])}{more}{also}"
    )
