"""recipes/evaluate.py --tasks: what else is measured, in one report, asked once."""

import json

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl

from instruct.evaluation.tasks import multiple_choice
from recipes import evaluate

TRUTHS = [
    {
        "question": f"What is {n} plus one?",
        "mc1_targets": {"choices": [f"It is {n + 1}.", f"It is {n + 2}."], "labels": [1, 0]},
        "mc2_targets": {"choices": [f"It is {n + 1}.", f"It is {n + 2}."], "labels": [1, 0]},
    }
    for n in range(4)
]


@pytest.fixture()
def arguments(tiny_model, tmp_path):
    other = save_model(tmp_path / "other", seed=1, initializer_range=0.5)
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i % 3}"} for i in range(5)]
    return [
        "--models", f"sft={tiny_model}", f"ppo={other}", "--max_new_tokens", "4",
        "--input", write_jsonl(tmp_path / "prompts.jsonl", rows),
        "--truthful_file", write_jsonl(tmp_path / "truths.jsonl", TRUTHS),
        "--task_file", write_jsonl(tmp_path / "texts.jsonl", [{"text": "A text."}]),
        "--harmless_input", write_jsonl(tmp_path / "harm.jsonl", [{"prompt": "You are"}]),
        "--harmless_samples", "2", "--output_dir", str(tmp_path / "report"),
    ]  # fmt: skip


def report_of(tmp_path) -> dict:
    return json.loads((tmp_path / "report" / "report.json").read_text())


def test_all_tasks_are_one_report(arguments, tmp_path, monkeypatch):
    tasks = ["--tasks", "helpful", "truthful", "harmless", "tax"]
    evaluate.main([*arguments, *tasks])
    found = report_of(tmp_path)
    assert found["tasks"] == tasks[1:] and "ppo_vs_sft" in found["win_rate"]
    for name, file in (("truthful", "truths"), ("tax", "texts")):
        assert set(found[name]["files"][file]["models"]) == {"sft", "ppo"}
    assert set(found["harmless"]["models"]["ppo"]) == {"none", "respectful", "biased"}
    assert {"evaluate", "evaluate: truthful", "evaluate: harmless"} <= set(found["seconds"])
    text = (tmp_path / "report" / "report.md").read_text()
    page = (tmp_path / "report" / "report.html").read_text()
    for words in ("Truthful", "Harmless", "alignment tax"):
        assert words.lower() in text.lower() and words.lower() in page.lower(), words
    # again: nothing is asked twice
    monkeypatch.setattr(multiple_choice, "_sums", None)
    evaluate.main([*arguments, *tasks])
    again = report_of(tmp_path)
    assert {**again, "seconds": None} == {**found, "seconds": None}


def test_a_report_says_how_many_rows_of_how_many_each_task_asked(arguments, tmp_path):
    few = ["--limit", "2", "--seed", "3", "--harmless_limit", "1"]
    more = [{"prompt": "You are"}, {"prompt": "They are"}, {"prompt": "We are"}]
    file = write_jsonl(tmp_path / "more.jsonl", more)
    tasks = ["--tasks", "helpful", "truthful", "harmless", "tax", "--harmless_input", file]
    evaluate.main([*arguments, *tasks, *few])
    found = report_of(tmp_path)
    assert found["asked"] == {"n": 2, "of": 5, "seed": 3}
    text = (tmp_path / "report" / "report.md").read_text()
    page = (tmp_path / "report" / "report.html").read_text()
    for count in ("2 of 5 prompts", "2 of 4 items", "1 of 3 prompts"):
        assert f"{count}, drawn with seed 3" in text, count
        assert f"{count}, drawn with seed 3" in page, count
    assert "all 1 items" in text and "all 1 items" in page


def test_a_task_of_some_of_the_models(arguments, tmp_path):
    evaluate.main([*arguments, "--tasks", "tax", "harmless:ppo", "truthful:ppo,sft"])
    found = report_of(tmp_path)
    assert found["tasks"] == ["tax", "harmless", "truthful"]
    assert list(found["harmless"]["models"]) == ["ppo"]
    assert list(found["truthful"]["files"]["truths"]["models"]) == ["sft", "ppo"]
    assert list(found["tax"]["files"]["texts"]["models"]) == ["sft", "ppo"]
    flags = json.loads((tmp_path / "report" / "run.json").read_text())["flags"]
    assert flags["task_models"]["harmless"] == ["ppo"]
    assert not (tmp_path / "report" / "harmless" / "sft.jsonl").exists()


def test_a_task_alone_needs_no_prompts(arguments, tmp_path):
    at = arguments.index("--input")
    evaluate.main([*arguments[:at], *arguments[at + 2 :], "--tasks", "truthful"])
    found = report_of(tmp_path)
    assert "truthful" in found and "win_rate" not in found
    assert set(found["models"]["sft"]) == {"path", "mode"}
    assert not (tmp_path / "report" / "answers.jsonl").exists()
    assert "Truthful" in (tmp_path / "report" / "report.html").read_text()


def test_what_is_missing_is_told_before_anything_is_asked(arguments, tmp_path, capsys):
    at = arguments.index("--input")
    without = [*arguments[:at], *arguments[at + 2 :]]
    for given, sentence in (
        ([*arguments, "--tasks", "honest"], "--tasks honest: no such task; there are helpful, tr"),
        (without, "--input is missing"),
        ([*arguments, "--tasks", "tax:sft,base"], "--tasks tax:sft,base: 'base' is none of --mode"),
        ([*arguments, "--tasks", "helpful:sft"], "--tasks helpful:sft: helpful is not asked of mo"),
        ([*arguments, "--tasks", "tax", "tax:sft"], "--tasks tax:sft: tax is given twice, of oth"),
        ([*arguments, "--tasks", "reward"], "--tasks reward needs a reward model"),
        ([*arguments, "--tasks", "overoptimisation"], "--tasks overoptimisation needs"),
    ):
        assert sentence in stops(evaluate.main, given, capsys)
    assert not (tmp_path / "report" / "run.json").exists()
