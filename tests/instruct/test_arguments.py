"""Flags: this repo's defaults over TRL's, and a mistake in one sentence."""

import pytest

from instruct.arguments import ModelConfig, parse
from instruct.errors import UserError


def test_model_config_defaults_and_bad_flag(tmp_path):
    (config,) = parse((ModelConfig,), ["--model_name_or_path", "m"])
    assert config.use_peft and config.lora_target_modules == "all-linear"
    with pytest.raises(UserError, match="no_such_flag"):
        parse((ModelConfig,), ["--no_such_flag", "1"])
