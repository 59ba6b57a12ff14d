"""The fused LoRA layer against PEFT's own."""

import contextlib
import json

import pytest
import torch
from conftest import write_jsonl
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from instruct.trainers import ranked_reward
from instruct.trainers import sft as sft_trainer
from instruct.trainers.fused_lora import FusedLinear, LoraLinear, fuse_lora
from recipes import reward, sft


class _Doubled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight = inner, inner.weight

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize(
    "case",
    [
        "plain", "dora", "two adapters", "off", "autocast", "base trains", "dropout",
        "dropout in evaluation", "dropout beside autocast", "plain, input without gradient",
        "dropout, input without gradient", "rslora", "its bias trains", "a wrapped adapter",
    ],
)  # fmt: skip
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
        use_rslora=case == "rslora",
        bias="all" if case == "its bias trains" else "none",
        lora_dropout=0.4 if case.startswith("dropout") else 0.0,
    )
    model = get_peft_model(model, config)
    model.add_adapter("other", LoraConfig(r=3, target_modules=["0"], init_lora_weights=False))
    if case == "two adapters":
        model.base_model.set_adapter(["default", "other"])
    if case == "base trains":
        model.requires_grad_(True)
    if case == "a wrapped adapter":
        # as by FSDP: what it computes, its weight does not say
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                layer.lora_A["default"] = _Doubled(layer.lora_A["default"])
    x, found = torch.randn(3, 7, 6), []
    context = (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if case.endswith("autocast")
        else contextlib.nullcontext()
    )
    for fused in (False, True):
        if fused:
            fuse_lora(model)
            assert sum(type(m) is FusedLinear for m in model.modules()) == 2
        model.zero_grad()
        inputs = x.clone().requires_grad_("without gradient" not in case)
        model.train(case != "dropout in evaluation")
        torch.manual_seed(1)  # the same numbers are drawn, in the same order
        with model.disable_adapter() if case == "off" else contextlib.nullcontext(), context:
            out = model(inputs)
        out.float().pow(2).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((out, inputs.grad, grads))
    (plain, dx, grads), (out, fused_dx, fused_grads) = found
    assert torch.allclose(out, plain, atol=1e-6)
    assert (dx is None and fused_dx is None) or torch.allclose(fused_dx, dx, atol=1e-5)
    assert set(grads) == set(fused_grads) and (grads or case == "off")
    assert all(torch.allclose(fused_grads[n], g, atol=1e-5) for n, g in grads.items())


def test_dropout_has_the_gradient_of_its_own_formula():
    """Against finite differences, in float64."""
    draw = torch.Generator().manual_seed(0)
    x, d, w, bias, a, b = (
        torch.randn(*shape, dtype=torch.float64, generator=draw)
        for shape in [(5, 4), (5, 4), (3, 4), (3,), (2, 4), (3, 2)]
    )
    for part in (x, d, a, b):
        part.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x, d, a, b: LoraLinear.apply(x, d, w, bias, a, b, 1.5), (x, d, a, b)
    )
    assert torch.autograd.gradcheck(
        lambda x, a, b: LoraLinear.apply(x, None, w, bias, a, b, 1.5), (x, a, b)
    )


@pytest.mark.parametrize("recipe", ["sft", "reward"])
def test_a_run_with_fused_layers_is_the_run_with_pefts(
    recipe, tiny_model, demonstrations, comparisons, tmp_path, monkeypatch
):
    """Same losses and weights but for the order of sums; with dropout, whose draws are the same."""
    module, cli, rows, extra = {
        "sft": (sft_trainer, sft.cli, demonstrations, []),
        "reward": (
            ranked_reward,
            reward.cli,
            comparisons,
            ["--disable_dropout", "False", "--eval_fraction", "0"],
        ),
    }[recipe]
    data, seen = write_jsonl(tmp_path / "rows.jsonl", rows), []

    def run(name: str) -> tuple[list[float], dict]:
        cli([
            "--model_name_or_path", tiny_model, "--dataset_name", data, "--report_to", "none",
            "--output_dir", str(tmp_path / name), "--max_steps", "4", "--save_strategy", "no",
            "--eval_strategy", "no", "--use_cpu", "--logging_steps", "1", "--lora_dropout", "0.2",
            "--learning_rate", "1e-2", "--per_device_train_batch_size", "4", "--dtype", "float32",
            *extra,
        ])  # fmt: skip
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses = [line["loss"] for line in log if "loss" in line]
        return losses, load_file(tmp_path / name / "adapter_model.safetensors")

    def fuse(model) -> None:
        fuse_lora(model)
        seen.append(sum(type(layer) is FusedLinear for layer in model.modules()))

    monkeypatch.setattr(module, "fuse_lora", fuse)
    losses, weights = run("fused")
    assert seen == [14]  # two layers of seven matrices
    monkeypatch.setattr(module, "fuse_lora", lambda model: None)
    plain_losses, plain_weights = run("peft")
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    for name, weight in plain_weights.items():
        # Adam divides by the size of a gradient: what is near 0 turns with the last bits
        assert (weights[name] - weight).norm() <= 2e-2 * weight.norm(), name
