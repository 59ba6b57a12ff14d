"""Which weight is NaN or infinite, and what is passed over; a base with one is refused."""

import math
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer, save_model
from peft import LoraConfig, get_peft_model
from ppo_tools import make_setup, make_trainer
from safetensors.torch import load_file, save_file
from torch import nn

from instruct.arguments import ModelConfig
from instruct.checks.finite import LOST, bad_weight, check_weights
from instruct.errors import UserError
from instruct.merging import merge
from instruct.models import load_causal_lm, load_reward, load_sequence_classifier

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_first_bad_weight_is_named(value, dtype):
    good, bad = torch.ones(3, 4, dtype=dtype), torch.ones(5, dtype=dtype)
    bad[3] = value
    name, found = bad_weight([("a", good), ("b", bad), ("c", bad)])
    assert name == "b" and found == pytest.approx(value, nan_ok=True)
    assert bad_weight([("a", good)]) is None and bad_weight([]) is None


def test_float8_and_sharded_weights_are_looked_at():
    eight = torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn)
    assert bad_weight([("eight", eight)])[0] == "eight"
    shard = nn.Parameter(torch.empty(0))
    assert bad_weight([("shard", shard)]) is None
    shard.ds_tensor = torch.tensor([0.0, INF])  # ZeRO-3's share of this process
    assert bad_weight([("shard", shard)]) == ("shard", INF)


def test_what_holds_no_numbers_is_passed_over():
    class Packed(nn.Parameter):  # 4-bit weights in the place of bf16 ones
        pass

    bytes_of_nan = torch.full((4,), NAN, dtype=torch.bfloat16)
    weights = [
        ("packed", Packed(bytes_of_nan, requires_grad=False)),
        ("integer", torch.full((2,), 255, dtype=torch.uint8)),
        ("meta", torch.empty(3, device="meta")),
    ]
    assert bad_weight(weights) is None


def test_limit_and_masks():
    huge, mask = torch.tensor([1.0, -2 * LOST]), nn.Parameter(torch.tensor([0.0, -INF]))
    assert bad_weight([("huge", huge)]) is None
    assert bad_weight([("huge", huge)], LOST)[0] == "huge"
    assert bad_weight([("mask", mask)])[0] == "mask"
    assert bad_weight([("mask", mask)], masks=mask) is None
    with torch.no_grad():
        mask[0] = NAN
    assert bad_weight([("mask", mask)], masks=mask)[0] == "mask"


def test_tokens_masked_by_the_output_bias_are_allowed():
    model = make_model("phi")
    with torch.no_grad():
        model.lm_head.bias[500:] = -INF
    check_weights(model, "phi")
    with torch.no_grad():
        model.lm_head.bias[0] = INF
    with pytest.raises(UserError, match="phi: its weight lm_head.bias holds inf"):
        check_weights(model, "phi")


@pytest.mark.parametrize("load", [load_causal_lm, load_sequence_classifier])
def test_a_base_with_nan_is_refused(tmp_path, load):
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = NAN
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj\.weight holds nan"):
        load(ModelConfig(model_name_or_path=str(tmp_path)))


def test_an_adapter_with_nan_is_refused(tmp_path):
    base = save_model(tmp_path / "base")
    model = get_peft_model(
        load_causal_lm(ModelConfig(model_name_or_path=base)),
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).fill_(NAN)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter: its weight .*lora_A.* holds nan"):
        merge(load_causal_lm(ModelConfig(model_name_or_path=base)), str(tmp_path / "adapter"))


def test_a_reward_adapter_with_nan_is_refused(tmp_path):
    setup = make_setup(tmp_path / "ppo")
    weights = Path(setup["reward"]) / "adapter_model.safetensors"
    state = load_file(weights)
    state["base_model.model.score.weight"][0, 3] = NAN
    save_file(state, weights, metadata={"format": "pt"})
    for use in (load_reward, lambda reward: make_trainer(setup, tmp_path / "out")):
        with pytest.raises(UserError, match="reward: its weight .*score.weight holds nan"):
            use(setup["reward"])
