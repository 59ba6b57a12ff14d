"""The fused LoRA layer against PEFT's own."""

import contextlib

import pytest
import torch
from peft import LoraConfig, get_peft_model

from instruct.trainers.fused_lora import FusedLinear, fuse_lora


@pytest.mark.parametrize(
    "case", ["plain", "dora", "two adapters", "off", "autocast", "base trains"]
)
def test_fused_lora_is_pefts_lora(case):
    """Output and every gradient against PEFT's own layer; what is not plain LoRA of one dtype takes
    PEFT's path.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.GELU(), torch.nn.Linear(5, 4))
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["0", "2"],
        init_lora_weights=False,
        use_dora=case == "dora",
    )
    model = get_peft_model(model, config)
    model.add_adapter("other", LoraConfig(r=3, target_modules=["0"], init_lora_weights=False))
    if case == "two adapters":
        model.base_model.set_adapter(["default", "other"])
    if case == "base trains":
        model.requires_grad_(True)
    x, found = torch.randn(3, 7, 6), []
    context = (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if case == "autocast"
        else contextlib.nullcontext()
    )
    for fused in (False, True):
        if fused:
            fuse_lora(model)
            assert sum(type(m) is FusedLinear for m in model.modules()) == 2
        model.zero_grad()
        inputs = x.clone().requires_grad_(True)
        with model.disable_adapter() if case == "off" else contextlib.nullcontext(), context:
            out = model(inputs)
        out.float().pow(2).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((out, inputs.grad, grads))
    (plain, dx, grads), (out, fused_dx, fused_grads) = found
    assert torch.allclose(out, plain, atol=1e-6) and torch.allclose(fused_dx, dx, atol=1e-5)
    assert set(grads) == set(fused_grads) and (grads or case == "off")
    assert all(torch.allclose(fused_grads[n], g, atol=1e-5) for n, g in grads.items())
