"""LoRA's linear layer as one autograd function, for layers and adapters of one dtype (on CPU: float32).

PEFT's y = x W' + s (x A') B' is the same mathematics, but makes and keeps passing over tensors of [tokens, width] that these
matrix products can add to in place: forward one product and one sum, backward one scaling and one sum less per layer.
"""

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F


class LoraLinear(torch.autograd.Function):
    """y [N, out] = x W' + bias + s (x A') B' for x [N, in], W [out, in] and bias frozen, A [r, in], B [out, r]."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling: float):
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scaling = scaling
        return F.linear(x, weight, bias).addmm_(low, b.T, alpha=scaling)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        through_b = (grad @ b).mul_(ctx.scaling)  # [N, r]
        grad_x = (grad @ weight).addmm_(through_b, a) if ctx.needs_input_grad[0] else None
        grad_a = through_b.T @ x if ctx.needs_input_grad[3] else None
        grad_b = (grad.T @ low).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        return grad_x, None, None, grad_a, grad_b, None


class FusedLinear(Linear):
    """PEFT's LoRA layer; whatever is not plain LoRA of one dtype goes PEFT's own way."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        active = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(active) != 1:
            return super().forward(x, *args, **kwargs)
        (name,), base = active, self.get_base_layer()
        a, b, drop = self.lora_A[name].weight, self.lora_B[name], self.lora_dropout[name]
        plain = (
            name not in self.lora_variant
            and b.bias is None
            and not (self.training and getattr(drop, "p", 0))
        )
        same_dtype = x.dtype == base.weight.dtype == a.dtype and not torch.is_autocast_enabled(
            x.device.type
        )
        if not (plain and same_dtype) or base.weight.requires_grad:
            return super().forward(x)
        y = LoraLinear.apply(
            x.flatten(0, -2), base.weight, base.bias, a, b.weight, self.scaling[name]
        )
        return y.unflatten(0, x.shape[:-1])


def fuse_lora(model: nn.Module) -> None:
    """Turns PEFT's LoRA layers on plain `nn.Linear` into `FusedLinear`, in place; other layers stay as they are."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
            layer.__class__ = FusedLinear
