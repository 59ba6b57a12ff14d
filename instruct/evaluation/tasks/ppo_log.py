"""PPO's log of its rollouts, for curves beside what is asked now: of one reward model, one gold."""

import argparse
import json
from pathlib import Path

from instruct.checks.score_functions import name_of
from instruct.evaluation.panel import Judge, panel_of
from instruct.evaluation.scripted import scripted_reward
from instruct.run.fingerprints import is_same, model_identity
from instruct.run.run_record import read_record

SCRIPTED = "scripted"  # as a judge


def log_file(args: argparse.Namespace) -> Path | None:
    """The log of PPO of `--run_dir`; None where it was not run."""
    file = args.run_dir / "ppo" / "trainer_state.json" if args.run_dir is not None else None
    return file if file is not None and file.is_file() else None


def rollouts_of(args: argparse.Namespace, reward: str) -> tuple[list[dict], str | None]:
    """What PPO of `--run_dir` logged of every rollout, and why there is none to show.

    Args:
        reward: path of the reward model that is asked now: scores of two are on no one axis.

    Returns entries of its log; empty, and why, where it learned from another reward model or from
    none. Empty and None where it was not run.
    """
    file = log_file(args)
    if file is None:
        return [], None
    folder = file.parent
    record = read_record(folder) or {}
    models = record.get("adapters")
    learned = _learned_from(record)
    # an earlier version did not record it
    if models is not None and not is_same(learned, model_identity(reward)):
        name = learned["name"] if learned else "no reward model"
        return [], f"{folder} learned from {name}, not from {reward}; no curve of it"
    history = json.loads(file.read_text(encoding="utf-8")).get("log_history", [])
    return [entry for entry in history if "objective/kl" in entry], None


def _learned_from(record: dict) -> dict | None:
    """What identifies the reward model whose scores PPO logged: its own, else a function's."""
    models = record.get("adapters") or {}
    return models.get("reward_model_path") or models.get("reward_funcs reward")


def gold_of(args: argparse.Namespace, log: list[dict]) -> tuple[Judge, str | None]:
    """Who gives the gold score of all curves, and his name in PPO's log; None: he is not in it."""
    (judge,) = panel_of(args.judge[:1], (args.judge_name or [])[:1] or None)
    names, spec = {key for entry in log for key in entry}, args.judge[0]
    scripted = spec.partition(":")[0] == SCRIPTED
    # other functions and models may have the same name
    watched = scripted or spec in (_reward_funcs(args) or [spec])
    if f"rewards/{name_of(judge.score)}" in names and watched:
        return judge, name_of(judge.score)
    # PPO may have watched a part of his taste, which asks no model
    part = name_of(scripted_reward)
    if f"rewards/{part}" in names and scripted:
        (judge,) = panel_of([SCRIPTED], None)
        return judge, part
    return judge, None


def _reward_funcs(args: argparse.Namespace) -> list[str] | None:
    """`--reward_funcs` as PPO recorded them; None: it did not."""
    folder = args.run_dir / "ppo" if args.run_dir is not None else None
    record = (read_record(folder) if folder is not None else None) or {}
    return record.get("flags", {}).get("reward_funcs")
