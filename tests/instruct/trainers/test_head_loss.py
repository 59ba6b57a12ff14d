"""The loss of a frozen LM head against the plain one, and SFT by it against TRL's own loss."""

import json

import pytest
import torch
from conftest import make_model, save_model, write_jsonl
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from instruct.trainers import head_loss
from instruct.trainers import sft as sft_trainer
from instruct.trainers.head_loss import HeadLoss, head_input, is_plain
from recipes.sft import cli


@pytest.mark.parametrize("tokens", [0, 1, 5, 11])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_plain_loss_with_its_gradient(tokens, with_bias, monkeypatch):
    """In float64, several chunks; a batch without a trained token is 0."""
    monkeypatch.setattr(head_loss, "CHUNK", 4)
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 3, dtype=torch.float64, generator=draw)
    bias = torch.randn(9, dtype=torch.float64, generator=draw) if with_bias else None
    hidden = torch.randn(tokens, 3, dtype=torch.float64, generator=draw, requires_grad=True)
    wanted = torch.randint(9, (tokens,), generator=draw)
    loss, found, entropy = HeadLoss.apply(hidden, weight, bias, wanted)
    (3 * loss).backward()
    grad, hidden.grad = hidden.grad, None

    logits = torch.nn.functional.linear(hidden, weight, bias)
    logprobs = logits.log_softmax(-1)
    plain = -logprobs.gather(1, wanted[:, None]).sum()
    (3 * plain).backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(grad, hidden.grad)
    assert found == (logits.argmax(-1) == wanted).sum()
    torch.testing.assert_close(entropy, -(logprobs.exp() * logprobs).sum())


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss, _, entropy = HeadLoss.apply(
        hidden, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([0, 0])
    )
    loss.backward()
    assert loss == 2e4 and entropy == 0 and hidden.grad.isfinite().all()


@pytest.mark.parametrize(
    "kind, changes, expected",
    [
        ("llama", {}, True), ("gpt2", {}, True), ("opt", {}, True), ("phi", {}, True),
        ("gpt_neox", {}, True),
        ("gemma2", {"final_logit_softcapping": 0.1}, False),
        ("cohere", {"logit_scale": 0.5}, False), ("granite", {"logits_scaling": 8.0}, False),
    ],
)  # fmt: skip
def test_a_head_whose_logits_are_scaled_or_capped_is_not_plain(kind, changes, expected):
    model = get_peft_model(make_model(kind, **changes), LoraConfig(target_modules="all-linear"))
    assert is_plain(model, model.get_base_model()) == expected


def test_a_head_that_trains_is_not_plain():
    model = make_model()
    assert not is_plain(model, model)  # every weight trains
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(make_model(tie_word_embeddings=False), lora)
    assert not is_plain(model, model.get_base_model())


def test_the_head_runs_on_no_token_and_is_left_as_it_was():
    model = make_model().requires_grad_(False)
    ids = torch.arange(6)[None]
    before = model(ids).logits
    with head_input(model.lm_head) as given:
        assert model(ids).logits.shape == (1, 0, 512)
    torch.testing.assert_close(model.lm_head(given[0]), before)
    torch.testing.assert_close(model(ids).logits, before)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi"])
@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--gradient_accumulation_steps", "3"],
        ["--packing", "--max_length", "96"],
        ["--gradient_checkpointing", "True"],
        ["--completion_only_loss", "False"],
    ],
    ids=["plain", "accumulated", "packed", "checkpointed", "whole rows"],
)
def test_sft_by_it_is_sft_by_trls_loss(kind, extra, demonstrations, tmp_path, monkeypatch):
    """Losses, metrics and weights, but for the order of sums."""
    if kind == "gpt2" and "--packing" in extra:
        pytest.skip("does not keep packed rows apart by itself")
    model = save_model(tmp_path / "model", kind)
    data = write_jsonl(tmp_path / "rows.jsonl", demonstrations)

    def run(name: str) -> tuple[list[dict], dict]:
        cli([
            "--model_name_or_path", model, "--dataset_name", data, "--report_to", "none",
            "--output_dir", str(tmp_path / name), "--max_steps", "4", "--save_strategy", "no",
            "--eval_strategy", "no", "--use_cpu", "--logging_steps", "1", "--lora_dropout", "0.2",
            "--learning_rate", "1e-2", "--per_device_train_batch_size", "2", "--dtype", "float32",
            "--optim", "sgd", *extra,
        ])  # fmt: skip
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        keys = ("loss", "mean_token_accuracy", "entropy", "num_tokens")
        lines = [{key: line[key] for key in keys} for line in log if "loss" in line]
        return lines, load_file(tmp_path / name / "adapter_model.safetensors")

    calls, apply = [], HeadLoss.apply
    monkeypatch.setattr(HeadLoss, "apply", lambda *args: calls.append(1) or apply(*args))
    log, weights = run("own")
    assert len(calls) == 4 * (3 if "accumulation" in str(extra) else 1)
    monkeypatch.setattr(sft_trainer, "is_plain", lambda model, base: False)
    expected, plain = run("trl")
    assert len(calls) == 4 * (3 if "accumulation" in str(extra) else 1)
    assert len(log) == len(expected) == 4
    for line, wanted in zip(log, expected, strict=True):
        assert line == pytest.approx(wanted, rel=1e-4)
    for name, weight in plain.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-6)
