"""NaN and infinity: which weight holds one, and the sentence that a run stops with.

Losses, gradients and weights of a run: `trainers/finite_run.py`. Logits: `generation.py`. Scores of
reward models, reward functions and judges: `score_functions.py`.
"""

import math
from collections.abc import Iterable

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers.integrations.fsdp import is_fsdp_enabled

from instruct.errors import UserError

# Two of them multiplied are beyond float32: a trained weight of this size is lost, if still finite.
LOST = 1e18
# why a number of a training run is not finite, and what to change
CAUSE = (
    "likely too large a step or an overflow in low precision: lower --learning_rate, "
    "use --bf16 rather than --fp16"
)


def bad_weight(
    named: Iterable[tuple[str, Tensor]], limit: float = math.inf, masks: Tensor | None = None
) -> tuple[str, float] | None:
    """Name and value of the first weight that is NaN, or not between -limit and limit; else None.

    Of sharded weights this process's share. Weights that are quantised, or not there yet (meta),
    are passed over.

    Args:
        named: as `model.named_parameters()`.
        masks: a parameter in which -inf is meant.
    """
    names, extremes = [], []
    for name, parameter in named:
        values = _plain_values(parameter)
        if values is None:
            continue
        # NaN is both. `isfinite` would take ten times as long
        low, high = torch.aminmax(values)
        names.append(name)
        extremes.append(torch.stack([high if parameter is masks else low, high]).float())
    if not names:
        return None
    device = extremes[0].device
    # one look for all: each waits for the device
    found = torch.stack([pair.to(device) for pair in extremes]).tolist()
    for name, (low, high) in zip(names, found, strict=True):
        # written so that NaN is bad, too
        for value in (low, high):
            if not -limit < value < limit:
                return name, value
    return None


def _plain_values(parameter: Tensor) -> Tensor | None:
    """The numbers of a parameter that are here and are its weights; None where there are none."""
    # ZeRO-3 keeps this process's share beside an empty parameter
    values = getattr(parameter, "ds_tensor", parameter)
    values = values.to_local() if hasattr(values, "to_local") else values  # a DTensor's
    # subclasses hold packed bytes, whatever type they name
    if type(values) not in (Tensor, nn.Parameter):
        return None
    if values.is_meta or not values.is_floating_point() or not values.numel():
        return None
    values = values.detach()
    return values.float() if values.element_size() == 1 else values  # float8 has no minimum


def check_weights(model: nn.Module, whose: str) -> None:
    """That all weights of a model as it was loaded are finite.

    -inf in the bias of the output layer is allowed: so are tokens masked that no text may have.

    Raises:
        UserError: names `whose` weight, and which.
    """
    # FSDP loads on one process: the others hold memory as it was until they are sent the weights
    if is_fsdp_enabled() and not PartialState().is_local_main_process:
        return
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = bad_weight(model.named_parameters(), masks=getattr(head, "bias", None))
    if found is not None:
        raise holds(whose, *found)


def holds(whose: str, name: str, value: float) -> UserError:
    """What `bad_weight` found in a model or an adapter, as the sentence to stop with."""
    return UserError(
        f"{whose}: its weight {name} holds {value}; load another copy, or in another --dtype"
    )
