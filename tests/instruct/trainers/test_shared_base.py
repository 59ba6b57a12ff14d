"""Four roles on one base: who speaks, what trains, what is refused."""

from pathlib import Path

import pytest
import torch
from ppo_tools import make_reward, make_setup, make_trainer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from instruct.errors import UserError


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def test_merging_restores_the_base_bit_for_bit(setup, tmp_path):
    shared = make_trainer(setup, tmp_path).shared
    before = {n: p.detach().clone() for n, p in shared.named_parameters()}
    for _ in range(20):
        with shared.merged("policy"):
            assert any((p != before[n]).any() for n, p in shared.named_parameters())
            with pytest.raises(RuntimeError, match="cannot speak as reference"):
                shared.switch("reference")
    assert all(torch.equal(p, before[n]) for n, p in shared.named_parameters())


def test_switching_keeps_what_trains(setup, tmp_path):
    shared = make_trainer(setup, tmp_path).shared
    before = {n: p.requires_grad for n, p in shared.named_parameters()}
    for role in ("reference", "value", "reward", "policy", "reference", "policy"):
        shared.switch(role)
        assert {n: p.requires_grad for n, p in shared.named_parameters()} == before
    trains = {n for n, on in before.items() if on}
    assert trains == {
        n for n in before if ".default." in n or ".value." in n or n.startswith("value_head")
    }


@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_all_that_should_move_moves_and_nothing_else(setup, tmp_path, value_model):
    trainer = make_trainer(setup, tmp_path, value_model=value_model, total_episodes=24)
    before = {n: p.detach().clone() for n, p in trainer.shared.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.shared.named_parameters() if not torch.equal(p, before[n])}
    adapters = (".default.", ".value.") if value_model == "adapter" else (".default.",)
    expected = {n for n in before if any(a in n for a in adapters) or n.startswith("value_head")}
    assert moved == expected
    names = {id(p): n for n, p in trainer.shared.named_parameters()}
    assert {
        names[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]
    } == expected


def test_adapter_that_does_not_fit_is_refused(setup, tmp_path):
    folder = Path(make_reward(tmp_path / "reward", setup["model"]))
    state = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {k: v for k, v in state.items() if ".score." not in k}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="no `score` head"):
        make_trainer(setup, tmp_path / "out", reward_model_path=str(folder))
    save_file(
        {k: v for k, v in state.items() if "layers.1" not in k},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match="do not fit this base model"):
        make_trainer(setup, tmp_path / "out", reward_model_path=str(folder))


def test_full_fine_tuning_has_a_frozen_reference(setup, tmp_path):
    trainer = make_trainer(
        setup, tmp_path, full=True, learning_rate=1e-4
    )  # value adapter and reward adapter on the copy
    sft = AutoModelForCausalLM.from_pretrained(setup["model"]).state_dict()
    trainer.train()
    reference = {
        k.replace(".base_layer", ""): v
        for k, v in trainer.shared.lm.state_dict().items()
        if "lora_" not in k
    }
    assert all(torch.equal(reference[k], v) for k, v in sft.items())
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert sum(not torch.equal(saved[k], v) for k, v in sft.items()) > len(sft) / 2
    assert all(torch.equal(saved[k], v) for k, v in trainer.shared.full_policy.state_dict().items())
    assert (tmp_path / "value" / "adapter_model.safetensors").is_file()
