"""Whole demos with other seeds: what demo.sh is told, and what is said of their reports."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from conftest import REPO

from instruct.arguments import ModelConfig, parse
from recipes import evaluate, ppo, reward, sft

sys.path.insert(0, str(REPO / "benchmarks"))
import chains

sys.path.pop(0)
CLASSES = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ModelConfig),
}


def commands_of_demo(tmp_path, **env) -> list[list[str]]:
    """The words of every command that demo.sh types, none of them run."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.sh").write_text((REPO / "recipes" / "demo.sh").read_text())
    (tmp_path / "bin").mkdir()
    for name in ("python", "accelerate"):
        stub = tmp_path / "bin" / name
        stub.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" END >> "$TYPED"\n')
        stub.chmod(0o755)
    typed = tmp_path / "typed"
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "TYPED": str(typed)} | env
    subprocess.run(["bash", "recipes/demo.sh"], cwd=tmp_path, env=env, check=True)
    words = typed.read_text().split("END\n")
    return [block.splitlines() for block in words if block]


def test_demo_sh_gives_folder_configs_and_seed_to_every_stage(tmp_path):
    typed = commands_of_demo(tmp_path, D="chain/5", C="chain/5/configs", SEED="5")
    lines = [shlex.join(words) for words in typed]
    assert len(lines) == 10 and not any("outputs/demo" in line for line in lines)
    trained = [line for line in lines if line.startswith("accelerate")]
    assert [line.rpartition("--config ")[2] for line in trained] == [
        f"chain/5/configs/{step}.yaml" for step in chains.STEPS
    ]
    (sample,) = [words for words in typed if "data_prep.sample" in words]
    assert sample[sample.index("--seed") + 1] == "5"
    args = evaluate.parse_arguments(typed[-1][2:])
    assert args.seed == 5 and args.judge == ["scripted:chain/5/embedded/model",
                                             "logprob:chain/5/embedded/model"]  # fmt: skip
    assert tuple(name.partition("=")[0] for name in args.models) == chains.MODELS
    # typed by a person: the demo's own folder, configs and seed
    (tmp_path / "own").mkdir()
    typed = commands_of_demo(tmp_path / "own")
    assert typed[-1][-2:] == ["--seed", "0"]
    assert "recipes/configs/demo/ppo.yaml" in typed[-2]


@pytest.mark.parametrize("step", chains.STEPS)
def test_a_chain_has_its_own_folder_and_seed_in_each_config(tmp_path, step, monkeypatch):
    monkeypatch.chdir(REPO)
    file = chains.write_configs(tmp_path / "7", 7) / f"{step}.yaml"
    script, training, model = parse(CLASSES[step], ["--config", str(file), "--bf16", "False"])
    assert training.seed == 7 and training.output_dir == str(tmp_path / "7" / step)
    assert model.model_name_or_path.startswith(str(tmp_path / "7"))
    assert script.dataset_name.startswith(str(tmp_path / "7"))


def a_row(seed: int, **other) -> dict:
    wins = {"rate": 0.75, "low": 0.7, "high": 0.8}
    rates = dict.fromkeys([*chains.PAIRS, "ppo:sft by reward", "ppo:sft by likelihood"], wins)
    row = {
        "seed": seed, "rates": rates, "gold": dict.fromkeys(chains.MODELS, 0.5),
        "reward accuracy": 0.8, "rankings": 85, "kl": 3.0, "distinct2_ratio": 0.9,
        "fit_ratio": 0.95, "strict_share": 0.6, "tie": 0.5, "believed": 1, "ended": 0.9,
        "tokens": {"sft": 12.0, "ppo": 13.0}, "seconds": 900,
    }  # fmt: skip
    return row | other


def with_rate(pair: str, rate: float, low: float) -> dict:
    rates = a_row(0)["rates"] | {pair: {"rate": rate, "low": low, "high": 0.9}}
    return {"rates": rates}


@pytest.mark.parametrize(
    "broken, missed",
    [
        (with_rate("ppo:sft", 0.75, 0.5), "seed 1: ppo:sft is 0.500, bar 0.5"),
        (with_rate("ppo:sft by reward", 0.75, 0.4), "seed 1: ppo:sft by reward is 0.400"),
        ({"reward accuracy": 0.71}, "seed 1: reward accuracy is 0.710, bar 0.72"),
        ({"rankings": 79}, "seed 1: rankings is 79.000, bar 80"),
        ({"ended": 0.79}, "seed 1: ended is 0.790, bar 0.8"),
        ({"believed": 0}, "seed 1: believed is 0.000, bar 1"),
        (with_rate("sft:prompted", 0.2, 0.1), "mean over 2 chains: sft:prompted is 0.475"),
        (with_rate("prompted:gpt", 0.25, 0.1), "mean over 2 chains: prompted:gpt is 0.500"),
        (with_rate("ppo:prompted", 0.6, 0.5), "mean over 2 chains: ppo:prompted is 0.675"),
        (with_rate("ppo:instruct", 0.3, 0.2), "mean over 2 chains: ppo:instruct is 0.525"),
    ],
)
def test_each_bar_that_is_not_met_is_told_with_its_chain(broken, missed):
    assert chains.missed_bars([a_row(0), a_row(1)]) == []
    (said,) = chains.missed_bars([a_row(0), a_row(1, **broken)])
    assert said.startswith(missed)


def a_report() -> dict:
    names = chains.MODELS
    # as evaluate.py writes them: every model against those named before it
    wins = {
        f"{ours}_vs_{theirs}": {"rate": 0.6 + i / 100, "low": 0.55, "high": 0.7}
        for i, ours in enumerate(names)
        for theirs in names[:i]
    }
    models = {
        name: {"gold": {"mean": i}, "ended": {"mean": 0.9}, "tokens": {"mean": 10 + i}}
        for i, name in enumerate(names)
    }
    held = dict.fromkeys(("kl", "distinct2_ratio", "fit_ratio", "strict_share"), True)
    return {
        "models": models, "win_rate": wins, "win_rate_by_reward_model": wins,
        "judges": {"a": {"independent": False, "win_rate": {}},
                   "b": {"independent": True, "win_rate": wins}},
        "collapse": {"kl": 3.0, "distinct2_ratio": 0.9, "fit_ratio": 0.9, "strict_share": 0.6,
                     "tie": 0.5, "holds": held},
        "reward": {"accuracy": 0.76, "n_rankings": 85},
        "seconds": {"sft": 100.2, "evaluate": 50.1},
    }  # fmt: skip


def test_a_chain_is_told_from_its_report_and_all_in_a_table_and_a_line(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "report").mkdir()
    report = a_report()
    (tmp_path / "report" / "report.json").write_text(json.dumps(report))
    row = chains.row_of(tmp_path, 3)
    assert row["seed"] == 3 and row["believed"] == 1 and row["seconds"] == 150
    assert row["rates"]["ppo:sft"] == report["win_rate"]["ppo_vs_sft"]
    assert row["rates"]["prompted:gpt"]["rate"] == 0.61
    # what was not measured is nothing to believe
    report["collapse"]["holds"]["fit_ratio"] = None
    (tmp_path / "report" / "report.json").write_text(json.dumps(report))
    assert chains.row_of(tmp_path, 3)["believed"] == 0

    # two that are done, and one that stopped
    root = tmp_path / "chains" / "abc1234"
    for seed in (0, 1):
        (root / str(seed) / "report").mkdir(parents=True)
        (root / str(seed) / "report" / "answers.jsonl").touch()
    monkeypatch.setattr(chains, "git", lambda *words: "abc1234" * (words[0] == "rev-parse"))
    monkeypatch.setattr(chains, "row_of", lambda folder, seed: a_row(seed))
    monkeypatch.setattr(chains, "run_all", lambda *given: given == (root, [0, 1, 2], 2))
    words = ["chains.py", "--seeds", "0", "1", "2", "--output_dir", str(tmp_path / "chains")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        chains.main()
    assert stop.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "every bar holds" and json.loads(out[-1])["mean"]["ppo:sft"] == 0.75
    assert sum(line.startswith(("| 0 |", "| 1 |")) for line in out) == 2
