"""Every command on what people may give it: rows in = rows used + rows reported, or one sentence.

Files with wrong types, nulls, NaN, lone surrogates, NUL, deep nesting, huge numbers, cut or with
another ending than content; flags out of range. A few inputs each in `make test`, 200 each in
`make test-slow`, by a seed that is printed: `FUZZ_SEED=N` is that run again.
"""

import inspect
import os
import random

import pytest
from fuzz_calls import fuzz
from fuzz_data import DATA_PREP
from fuzz_recipes import RECIPES, make_reward
from fuzz_shapes import OTHERS_SHAPES

FEW, MANY = 4, 200
COMMANDS = DATA_PREP | RECIPES | OTHERS_SHAPES
SEED = 14  # of the few: the same in every run


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory) -> dict[str, str]:
    return {
        "model": tiny_model,
        "reward_model": make_reward(tmp_path_factory.mktemp("reward"), tiny_model),
    }


def run(command: str, count: int, seed: int, models: dict[str, str]) -> None:
    print(f"FUZZ_SEED={seed} ({command}, {count} inputs)")
    check, strategies = COMMANDS[command]
    wanted = inspect.signature(check).parameters
    given = {name: path for name, path in models.items() if name in wanted}

    def judge(**drawn):
        check(**drawn, **given)

    fuzz(judge, count, seed, **strategies)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_few_inputs_end_well_or_in_one_sentence(command, models):
    run(command, FEW, SEED, models)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_many_inputs_end_well_or_in_one_sentence(command, models, capsys):
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().getrandbits(32))
    # shown whether the test fails or not
    with capsys.disabled():
        print(f"\n{command}: FUZZ_SEED={seed}")
    run(command, MANY, seed, models)
