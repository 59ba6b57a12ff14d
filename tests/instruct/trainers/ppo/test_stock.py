"""TRL's own PPOTrainer on our flags."""

import json

import pytest
import torch
from ppo_tools import flags, make_setup

from instruct.trainers.ppo.stock import every_end_stops
from recipes.ppo import cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


@pytest.mark.stock
def test_stock_runs_on_the_same_flags(setup, tmp_path):
    for value in ("lora", "full"):
        cli(flags(setup, tmp_path / value, stock=True, stock_value=value))
        assert (tmp_path / value / "adapter_model.safetensors").is_file()
        log = json.loads((tmp_path / value / "trainer_state.json").read_text())["log_history"]
        assert abs(log[0]["objective/kl"]) < 1e-4


@pytest.mark.stock
def test_stock_stops_at_every_end_while_it_trains_and_not_after():
    from trl.experimental.ppo import ppo_trainer

    plain = ppo_trainer.truncate_response
    rows = torch.tensor([[5, 9, 7, 8], [5, 2, 7, 9], [5, 6, 7, 8]])
    with pytest.raises(KeyError), every_end_stops((2, 9)):
        cut = ppo_trainer.truncate_response(2, 0, rows)
        assert cut.tolist() == [[5, 2, 0, 0], [5, 2, 0, 0], [5, 6, 7, 8]]
        raise KeyError
    assert ppo_trainer.truncate_response is plain
