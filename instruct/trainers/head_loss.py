"""The loss of a frozen LM head: softmax and gradient in one pass over the logits of trained tokens.

With LoRA the head is frozen, so all that its backward pass gives is the gradient of the hidden
states. That is made beside the loss, while the logits are there: TRL's own loss computes them
again in the backward pass, and fills tokens up to whole chunks.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

CHUNK = 256  # tokens whose logits are in memory together


class HeadLoss(torch.autograd.Function):
    """Sums over N tokens of -log p(token), of right guesses, and of entropy in nats: three scalars,
    the first with a gradient.

    For hidden [N, d] and a frozen head's weight [V, d], bias [V] or None; tokens [N].
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens):
        sums, grad = hidden.new_zeros(3), None
        if ctx.needs_input_grad[0]:
            grad = torch.empty_like(hidden)
        for start in range(0, len(tokens), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = nn.functional.linear(hidden[rows], weight, bias)
            wanted = tokens[rows, None]
            largest, guess = logits.max(-1, keepdim=True)
            # log p without the overflow of a plain exp
            logits -= largest
            own = logits.gather(1, wanted).sum()
            shares = logits.exp()
            total = shares.sum(-1, keepdim=True)
            log_total = total.log()
            # entropy = log z - sum of p * logit
            spread = torch.linalg.vecdot(shares, logits) / total[:, 0]
            found = (guess == wanted).sum()
            sums += torch.stack([log_total.sum() - own, found, log_total.sum() - spread.sum()])
            if grad is not None:
                # softmax less one at the token
                shares /= total
                shares.scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0))
                torch.mm(shares, weight, out=grad[rows])
        ctx.save_for_backward(grad)
        loss, found, entropy = sums.unbind()
        ctx.mark_non_differentiable(found, entropy)
        return loss, found, entropy

    @staticmethod
    def backward(ctx, grad_loss, *_):
        (grad,) = ctx.saved_tensors
        return grad * grad_loss, None, None, None


@contextlib.contextmanager
def head_input(head: nn.Module) -> Iterator[list[Tensor]]:
    """In this block, what the head is given is put into the list, and the head itself runs on no
    token: logits [B, L, V] would be the largest tensor.
    """
    given: list[Tensor] = []

    def keep(_, args):
        given.append(args[0])
        return (args[0][:, :0], *args[1:])

    hook = head.register_forward_pre_hook(keep)
    try:
        yield given
    finally:
        hook.remove()


def is_plain(model: nn.Module, base: PreTrainedModel) -> bool:
    """Whether the model's logits are its frozen float32 head on its last hidden states and nothing
    else: tried on four tokens, as some scale or cap them.

    Args:
        model: what is trained, adapters and all, not yet wrapped.
        base: the causal LM in it.
    """
    head = base.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.dtype != torch.float32:
        return False
    if any(p.requires_grad for p in head.parameters()):
        return False
    ids = torch.arange(4, device=head.weight.device)[None] % len(head.weight)
    given, training = [], model.training
    hook = head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model.eval()
    try:
        with torch.no_grad():
            mask = torch.ones_like(ids)  # or it would be warned of: the ids hold a pad
            spoken = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            return len(given) == 1 and torch.equal(spoken, head(given[0]))
    finally:
        hook.remove()
        model.train(training)
