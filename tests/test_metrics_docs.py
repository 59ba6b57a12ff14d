"""docs/metrics.md names every number that tiny runs of the three steps and their report log."""

import json
import re
from pathlib import Path

import pytest
from conftest import REPO, write_jsonl
from ppo_tools import flags, make_setup

from instruct.evaluation.diagnosis.diagnose import RULES
from recipes import evaluate, ppo, reward, sft

PAGE = (REPO / "docs" / "metrics.md").read_text()
# one quoted word each; NAME stands for any name
NAMED = set(re.findall(r"`([\w/]+)`", PAGE))
QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "True", "--logging_steps", "1",
         "--save_strategy", "no", "--max_steps", "2", "--eval_strategy", "epoch"]  # fmt: skip


def is_named(key: str) -> bool:
    general = re.sub(r"rewards/.*", "rewards/NAME", key)
    return bool({key, general, re.sub(r"^kl_from_.*", "kl_from_REFERENCE", key)} & NAMED)


def keys_of(folder: Path) -> set[str]:
    """Every key of a trainer's log."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return {key for entry in state["log_history"] for key in entry}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, demonstrations, comparisons) -> Path:
    """Each step by its recipe, with every flag that adds a number, and their report."""
    root = tmp_path_factory.mktemp("run")
    for name, rows in (("demonstrations", demonstrations), ("comparisons", comparisons)):
        (root / name).mkdir()
        write_jsonl(root / name / "train.jsonl", rows[:8])
        write_jsonl(root / name / "validation.jsonl", rows[8:])
    sft.cli([
        "--model_name_or_path", tiny_model, "--dataset_name", str(root / "demonstrations"),
        "--output_dir", str(root / "sft"), *QUIET,
    ])  # fmt: skip
    reward.cli([
        "--model_name_or_path", tiny_model, "--dataset_name", str(root / "comparisons"),
        "--output_dir", str(root / "reward"), *QUIET,
    ])  # fmt: skip
    setup = make_setup(root / "setup")
    texts = write_jsonl(root / "texts.jsonl", [{"text": "Tea and rain. " * 4}] * 8)
    ppo.cli(flags(
        setup, root / "ppo", eval_strategy="steps", eval_steps=2, ptx_dataset=texts, ptx_coef=0.5,
        value_learning_rate=1e-3, reward_funcs=["data_prep.label:scripted_reward"],
    ))  # fmt: skip
    rows = [{"id": f"p{i}", "user_id": f"u{i}", "prompt": f"Question {i}?"} for i in range(6)]
    evaluate.main([
        "--models", f"sft={setup['model']}", f"ppo={root / 'ppo'}", "--reward", setup["reward"],
        "--input", write_jsonl(root / "prompts.jsonl", rows), "--max_new_tokens", "4",
        "--fit_model", setup["model"], "--run_dir", str(root),
        "--output_dir", str(root / "report"),
    ])  # fmt: skip
    return root


@pytest.mark.parametrize("step", ["sft", "reward", "ppo"])
def test_every_logged_number_is_explained(run, step):
    logged = keys_of(run / step)
    assert len(logged) > 10 and {key for key in logged if not is_named(key)} == set()


def test_what_a_reward_model_leaves_is_explained(run):
    left = json.loads((run / "reward" / "metrics.json").read_text())
    assert {key for key in left if not is_named(key)} == set()


def test_every_part_of_the_report_is_explained(run):
    report = json.loads((run / "report" / "report.json").read_text())
    parts = [report, report["collapse"], *report["models"].values()]
    parts += [*report["judges"].values(), *report["ppo"]["steps"][:1]]
    assert {key for part in parts for key in part if not is_named(key)} == set()


def test_every_rule_is_in_the_table_and_none_else():
    table = PAGE.split("the rules\n", 1)[1].split("\n## ", 1)[0]
    rules = re.findall(r"^\| [\w ]*\| `(\w+)`", table, flags=re.M)
    assert rules == [rule.__name__ for rule in RULES]
