"""LoRA's flags against the model: names have to be there, and what a layer cannot take is told."""

import contextlib
import copy
import re

from peft import PeftConfig
from peft.tuners import tuners_utils
from torch import nn
from transformers.pytorch_utils import Conv1D

from instruct.errors import UserError
from instruct.processes import is_main_process

TRAINABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear, Conv1D)
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
    _check_parameters(config, model, modules)
    if targets == "all-linear":
        config.exclude_modules = _not_for_lora(config, model, modules) or config.exclude_modules
    for wanted in config.modules_to_save or ():
        if not any(_is_called(name, wanted) for name in modules):
            raise _unknown("lora_modules_to_save", wanted, modules, nn.Module)


def settle_dropout(config: PeftConfig, model: nn.Module, default: float) -> None:
    """Leaves a default dropout out where an adapter stands on parameters: those of experts.

    PEFT adds such an adapter to the weight itself, whose input it does not see.

    Raises:
        UserError: dropout or DoRA that was asked for.
    """
    changed = copy.deepcopy(config)
    # names of layers that this transformers keeps as one parameter; an older PEFT knows none
    with contextlib.suppress(ImportError):
        from peft.utils import transformers_weight_conversion as conversion

        try:
            conversion.convert_peft_config_for_transformers(changed, model, None)
        except ValueError as error:
            raise UserError(f"--lora_target_modules: {error}") from error
    if not getattr(changed, "target_parameters", None):
        return
    names = ", ".join(sorted(changed.target_parameters)[:SHOWN])
    for flag, value, least in (("use_dora", config.use_dora, "False"),
                               ("lora_dropout", config.lora_dropout, "0")):  # fmt: skip
        if value and (flag, value) != ("lora_dropout", default):
            raise UserError(
                f"--{flag} {value}: adapters on parameters of this model ({names}) take none; give "
                f"{least}, or other layers by --lora_target_modules"
            )
    if config.lora_dropout and is_main_process():
        print(f"--lora_dropout is 0 here: adapters on parameters ({names}) take no dropout")
    config.lora_dropout = 0.0


def _check_parameters(config: PeftConfig, model: nn.Module, modules: dict) -> None:
    """Names of `--lora_target_parameters`."""
    parameters = [name for name, _ in model.named_parameters()]
    for wanted in config.target_parameters or ():
        found = [name for name in parameters if _is_called(name, wanted)]
        if not found:
            raise UserError(
                f"--lora_target_parameters {wanted}: the model has no parameter of that name; its "
                f"names are like {parameters[len(parameters) // 2]}"
            )
        owner = found[0].rpartition(".")[0]
        whole = config.target_modules == "all-linear" and isinstance(modules[owner], LINEAR)
        named = not whole and tuners_utils.check_target_module_exists(config, owner)
        if whole or named:
            raise UserError(
                f"--lora_target_parameters {wanted}: is of a layer that --lora_target_modules "
                f"takes already ({config.target_modules}); name it in one of the two"
            )


def _not_for_lora(config: PeftConfig, model: nn.Module, modules: dict) -> set[str]:
    """Names of linear layers that an adapter cannot stand on: of Mamba, whose kernels read the
    weight past the layer.
    """
    refused = set()
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)  # from PEFT 0.18 on
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if check and isinstance(module, LINEAR) and last not in refused:
            try:
                check(config, model, last)
            except ValueError:
                refused.add(last)
    if refused and is_main_process():
        print(f"all-linear: without {', '.join(sorted(refused))}, which take no adapter (Mamba)")
    return refused


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
