"""`--value_learning_rate`: the value function's own rate in the one optimizer."""

from types import SimpleNamespace

import pytest
import torch
from ppo_tools import flags, make_setup, make_trainer
from torch.nn import Parameter

from instruct.errors import UserError
from instruct.trainers.ppo.value_rate import set_rate
from recipes.ppo import cli

VALUE_MODELS = ["adapter", "head"]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def weights(trainer) -> tuple[dict, dict]:
    """Copies of what the policy and the value function train, by name."""
    policy = trainer.shared.policy_parameters()
    apart = {id(p) for p in trainer.shared.value_parameters()}
    value = {n: p for n, p in trainer.shared.named_parameters() if id(p) in apart}
    return tuple({n: p.detach().clone() for n, p in part.items()} for part in (policy, value))


def trained(setup, folder, **settings) -> tuple[dict, dict]:
    trainer = make_trainer(setup, folder, **settings)
    trainer.train()
    return weights(trainer)


def same(one: dict, other: dict) -> list[bool]:
    assert one.keys() == other.keys()
    return [torch.equal(one[name], other[name]) for name in one]


@pytest.mark.parametrize("value_model", VALUE_MODELS)
@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "rmsprop"])
def test_at_rate_0_the_value_stays_bit_for_bit_and_the_policy_moves(
    setup, tmp_path, value_model, optim
):
    trainer = make_trainer(
        setup,
        tmp_path,
        value_model=value_model,
        optim=optim,
        value_learning_rate=0.0,
        weight_decay=0.1,
    )
    policy, value = weights(trainer)
    trainer.train()
    policy_after, value_after = weights(trainer)
    assert all(same(value, value_after)) and not any(same(policy, policy_after))


@pytest.mark.parametrize("value_model", VALUE_MODELS)
def test_the_same_rate_is_the_run_without_one_and_another_moves_the_value_alone(
    setup, tmp_path, value_model
):
    shared = {"value_model": value_model, "lr_scheduler_type": "cosine", "weight_decay": 0.1}
    plain = trained(setup, tmp_path / "a", **shared)
    equal = trained(setup, tmp_path / "b", value_learning_rate=1e-3, **shared)
    assert all(same(plain[0], equal[0])) and all(same(plain[1], equal[1]))
    higher = trained(setup, tmp_path / "c", value_learning_rate=1e-2, **shared)
    assert not any(same(plain[1], higher[1]))


def test_a_step_is_as_long_as_its_rate_says(setup, tmp_path):
    """Plain SGD of one step: the value's way is ten times as long, the policy's the same."""
    shared = {"optim": "sgd", "max_steps": 1, "num_ppo_epochs": 1, "lr_scheduler_type": "constant"}
    shared["max_grad_norm"] = 0.0  # no clipping
    start = weights(make_trainer(setup, tmp_path / "start"))
    plain = trained(setup, tmp_path / "a", learning_rate=0.1, **shared)
    tenfold = trained(setup, tmp_path / "b", learning_rate=0.1, value_learning_rate=1.0, **shared)
    assert all(same(plain[0], tenfold[0]))
    for name, before in start[1].items():
        way, longer = plain[1][name] - before, tenfold[1][name] - before
        torch.testing.assert_close(longer, 10 * way, rtol=1e-3, atol=1e-6)


def test_the_schedule_scales_both_and_the_log_shows_both(setup, tmp_path):
    trainer = make_trainer(
        setup, tmp_path, value_learning_rate=4e-3, lr_scheduler_type="linear", total_episodes=32
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "value_learning_rate" in line]
    assert len(lines) == 4
    for line in lines:
        assert line["learning_rate"] == pytest.approx(1e-3 * (1 - (line["step"] - 1) / 8))
        assert line["value_learning_rate"] == pytest.approx(4 * line["learning_rate"])


def test_a_run_cut_off_ends_as_the_unbroken_one(setup, tmp_path):
    run = {
        "value_learning_rate": 5e-3,
        "lr_scheduler_type": "cosine",
        "total_episodes": 32,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    whole = make_trainer(setup, tmp_path, **run)
    whole.train()
    cut = make_trainer(setup, tmp_path, **run)
    cut.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for one, other in zip(weights(whole), weights(cut), strict=True):
        assert all(same(one, other))


def test_an_optimizer_that_takes_one_rate_is_refused():
    a, b = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))

    class EachByItself(torch.optim.SGD):
        """As those that step each weight in its backward pass: its groups hold none of them."""

        def __init__(self, _):
            super().__init__([Parameter(torch.zeros(1))], lr=1.0)

    with pytest.raises(UserError, match="--value_learning_rate: EachByItself takes one"):
        set_rate(EachByItself([a, b]), [b], 0.1)
    optimizer = torch.optim.SGD([{"params": [a, b], "weight_decay": 0.5}], lr=1.0)
    for _ in range(2):  # set twice is set once
        set_rate(optimizer, [b], 0.1)
        found = [(g["params"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
        assert found == [([a], 1.0, 0.5), ([b], 0.1, 0.5)]


def test_an_optimizer_by_deepspeed_is_refused(setup, tmp_path, monkeypatch):
    trainer = make_trainer(setup, tmp_path, value_learning_rate=1e-3)
    plugin = SimpleNamespace(deepspeed_config={"optimizer": {"type": "AdamW"}}, zero_stage=0)
    kind = type(trainer.accelerator.state)
    monkeypatch.setattr(kind, "deepspeed_plugin", property(lambda self: plugin))
    with pytest.raises(UserError, match="DeepSpeed configuration has an optimizer of its own"):
        trainer.train()


@pytest.mark.stock
def test_stock_has_none(setup, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli(flags(setup, tmp_path, stock=True, value_learning_rate=1e-3))
    assert stop.value.code == 2
    assert "--value_learning_rate 1e-3: TRL's own PPOTrainer has" in capsys.readouterr().err
