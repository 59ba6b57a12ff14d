"""A model's and an adapter's files that a copy has damaged: the one at fault is named."""

import json

import pytest
from conftest import save_model
from ppo_tools import make_reward

from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.models import load_causal_lm, load_policy, load_reward


@pytest.mark.parametrize("left", ["", '{"peft_type":', "[]", "{}", '{"peft_type": "NEW"}'])
@pytest.mark.parametrize("load", [load_policy, load_reward])
def test_a_damaged_adapter_config_is_named(load, left, tiny_model, tmp_path):
    make_reward(tmp_path / "adapter", tiny_model)
    (tmp_path / "adapter" / "adapter_config.json").write_text(left)
    with pytest.raises(UserError, match="adapter_config.json: .* copy that adapter anew"):
        load(str(tmp_path / "adapter"))


@pytest.mark.parametrize("size", [0, 5, 100, -100])
@pytest.mark.parametrize("what", ["model", "adapter_model"])
def test_cut_weights_are_named(what, size, tiny_model, tmp_path):
    folder = tmp_path / "there"
    if what == "model":
        save_model(folder)
    else:
        make_reward(folder, tiny_model)
    file = folder / f"{what}.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    load = load_policy if what == "model" else load_reward
    with pytest.raises(UserError, match=f"{what}.safetensors: this safetensors file is damaged"):
        load(str(folder))


def test_an_adapter_is_no_base_and_what_was_meant_is_told(tiny_model, tmp_path):
    make_reward(tmp_path / "sft", tiny_model)
    arguments = ModelConfig(model_name_or_path=str(tmp_path / "sft"))
    with pytest.raises(UserError, match="an adapter of .* and no model to start from"):
        load_causal_lm(arguments)
    (tmp_path / "sft" / "merged").mkdir()
    (tmp_path / "sft" / "merged" / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="did you mean .*merged"):
        load_causal_lm(arguments)
