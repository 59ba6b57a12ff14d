"""TRL's own PPOTrainer on our flags."""

import json

import pytest
from ppo_tools import flags, make_setup

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
