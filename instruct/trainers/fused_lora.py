"""LoRA's linear layer as one autograd function, where layer and adapter have one dtype.

PEFT's y = x W' + s (d A') B', with d = x or its dropout, is the same mathematics, but makes and
keeps passing over tensors of [tokens, width] that these matrix products can add to in place:
forward one product and one sum, backward one scaling and one sum less per layer.
"""

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F
from transformers.integrations import is_deepspeed_zero3_enabled


class LoraLinear(torch.autograd.Function):
    """y [N, out] = x W' + bias + s (d A') B'.

    For x [N, in], d [N, in] its dropout or None for x itself, W [out, in] and bias [out] frozen,
    A [r, in], B [out, r], s the scaling.
    """

    @staticmethod
    def forward(ctx, x, dropped, weight, bias, a, b, scaling: float):
        inner = x if dropped is None else dropped
        low = inner @ a.T  # [N, r]: small enough to keep, and `a` and `b` both need it
        ctx.save_for_backward(inner, weight, a, b, low)
        ctx.scaling, ctx.one_input = scaling, dropped is None
        # in place on the product just made: no second [N, out]
        return F.linear(x, weight, bias).addmm_(low, b.T, alpha=scaling)

    @staticmethod
    def backward(ctx, grad):
        inner, weight, a, b, low = ctx.saved_tensors
        through_b = (grad @ b).mul_(ctx.scaling)  # [N, r]
        # the first layer's input needs none
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        grad_dropped = None
        if grad_x is not None and ctx.one_input:
            grad_x.addmm_(through_b, a)
        elif ctx.needs_input_grad[1]:
            grad_dropped = through_b @ a
        grad_a = through_b.T @ inner if ctx.needs_input_grad[4] else None
        grad_b = (grad.T @ low).mul_(ctx.scaling) if ctx.needs_input_grad[5] else None
        # one gradient per argument of `forward`: x, dropped, weight, bias, a, b, scaling
        return grad_x, grad_dropped, None, None, grad_a, grad_b, None


class FusedLinear(Linear):
    """PEFT's LoRA layer; whatever is not plain LoRA of one dtype goes PEFT's own way."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        # several at once, or rows of several, are PEFT's business
        active = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(active) != 1:
            return super().forward(x, *args, **kwargs)
        (name,) = active
        if not self._is_plain(name, x):
            return super().forward(x)
        base, a, b = self.get_base_layer(), self.lora_A[name].weight, self.lora_B[name].weight
        # rows flat: `addmm` takes matrices only
        flat, dropout = x.flatten(0, -2), self.lora_dropout[name]
        # drawn as PEFT draws it: the same random numbers make the same run
        drops = self.training and getattr(dropout, "p", 0) > 0
        dropped = dropout(flat) if drops else None
        y = LoraLinear.apply(flat, dropped, base.weight, base.bias, a, b, self.scaling[name])
        return y.unflatten(0, x.shape[:-1])

    def _is_plain(self, name: str, x: torch.Tensor) -> bool:
        """That the adapter is two matrices beside a frozen layer, all of the input's dtype."""
        base, a, b = layers = self.get_base_layer(), self.lora_A[name], self.lora_B[name]
        # FSDP may wrap one by itself, and gathers its weight only when it is called
        if any(type(layer) is not nn.Linear for layer in layers):
            return False
        # its bias may train alone (PEFT's `bias="all"`)
        frozen = not any(p.requires_grad for p in base.parameters())
        # in mixed precision PEFT casts between layer and adapter; products here would not
        autocast = torch.is_autocast_enabled(x.device.type)
        same_dtype = x.dtype == base.weight.dtype == a.weight.dtype and not autocast
        # a variant is DoRA and the like
        return frozen and same_dtype and name not in self.lora_variant and b.bias is None


def fuse_lora(model: nn.Module) -> None:
    """Turns PEFT's LoRA layers on plain `nn.Linear` into `FusedLinear`, in place."""
    if is_deepspeed_zero3_enabled():
        return  # it gathers a weight when its own module is called
    for layer in model.modules():
        # exactly these types: a quantised layer or a subclass computes something else
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
            # the class alone: weights, names and hooks stay, and so do checkpoints
            layer.__class__ = FusedLinear
