"""Whether a model keeps rows apart that stand in one line (`--packing`, `--padding_free`)."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from instruct.errors import UserError

LENGTH = 12
# of the logits' size; 16-bit arithmetic alone differs by a hundredth
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_16_BITS = 5e-2


@torch.no_grad()
def check_keeps_apart(model, base: PreTrainedModel) -> None:
    """That two rows in one line, told apart by their positions alone, say what each says alone.

    Some models take no positions (ALiBi, Mamba), others count them by themselves (OPT): in those,
    a row would read the one before it, and TRL warns of it at most.

    Args:
        model: what is trained, adapters and all, not yet sharded.
        base: the causal LM in it.

    Raises:
        UserError: it does not.
    """
    # made for it, by TRL's word, and in 16 bits only
    if "flash" in base.config._attn_implementation:
        return
    refusal = UserError(
        f"--packing, --padding_free: {type(base).__name__} does not keep apart rows that stand in "
        "one line, so one would be trained to go on from another; leave them out, "
        "--train_sampling_strategy group_by_length saves most of the padding"
    )
    training = model.training
    model.eval()
    vocabulary = base.config.get_text_config().vocab_size
    line = torch.arange(2 * LENGTH, device=base.device)[None] % vocabulary
    positions = torch.arange(LENGTH, device=base.device).repeat(2)[None]
    try:
        rows = [_logits(model, line[:, i : i + LENGTH]) for i in (0, LENGTH)]
        gap = _gap(_logits(model, line, position_ids=positions), torch.cat(rows, 1))
    # a model that takes no positions
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal from error
    finally:
        model.train(training)
    if not gap <= TOLERANCE.get(base.dtype, TOLERANCE_16_BITS):
        raise refusal


def _logits(model, ids: Tensor, **given) -> Tensor:
    return model(input_ids=ids, use_cache=False, **given).logits.float()


def _gap(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()
