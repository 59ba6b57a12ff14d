"""recipes/evaluate.py --tasks: what else is measured, in one report, asked once."""

import json
import shutil

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl
from harmless_tools import save_classifier

from instruct.evaluation.tasks import multiple_choice
from instruct.run.fingerprints import model_identity
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


def record_of(tmp_path) -> dict:
    return json.loads((tmp_path / "report" / "run.json").read_text())


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


def test_a_report_of_other_tasks_says_which_it_takes_the_place_of(arguments, tmp_path, capsys):
    evaluate.main([*arguments, "--tasks", "helpful", "tax"])
    folder = tmp_path / "report"
    (folder / "ppo.png").write_bytes(b"of an earlier call")
    assert (folder / "answers.jsonl").exists() and "gives way" not in capsys.readouterr().out
    evaluate.main([*arguments, "--tasks", "tax"])
    assert f"{folder}: its report of helpful gives way to one of tax" in capsys.readouterr().out
    # these may be of other models
    assert not (folder / "answers.jsonl").exists() and not (folder / "ppo.png").exists()
    # what was said is kept
    assert any((folder / "answers").iterdir())


def test_a_reward_model_on_preferences_alone(arguments, reward_model, tmp_path, capsys):
    pairs = [{"prompt": f"Say {i}.", "chosen": f"{i}!", "rejected": "No."} for i in range(4)]
    hhh = [
        {"input": f"Say {i}.", "targets": {"choices": ["No.", f"{i}!"], "labels": [0, 1]}}
        for i in range(4)
    ]
    files = [write_jsonl(tmp_path / f"{n}.jsonl", r) for n, r in (("mine", pairs), ("hhh", hhh))]
    asked = ["--tasks", "reward", "--reward", reward_model, "--reward_file", *files]
    evaluate.main([*arguments, *asked])
    found = report_of(tmp_path)["reward"]["files"]
    assert [one["name"] for one in record_of(tmp_path)["data"]["reward_file"]] == files
    # the same preferences, in the two shapes
    assert found["mine"] == found["hhh"] and found["mine"]["n_pairs"] == 4
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "mine" in text and "hhh" in text, name
    assert "reward accuracy" not in capsys.readouterr().out


def test_rankings_of_a_file_are_not_the_runs_own(arguments, reward_model, tmp_path, capsys):
    run, hers = tmp_path / "run", {"completions": ["Yes!", "No."], "labeler": "maria"}
    rows = [{"prompt": f"Say {i}.", "ranks": [1, 2], **hers} for i in range(4)]
    file = write_jsonl(tmp_path / "hers.jsonl", rows)
    shutil.copytree(reward_model, run / "reward")
    own = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "n_pairs": 99, "own": 1}
    for name, told in (("metrics", own), ("run", {"step": "reward", "labelers": ["scripted"]})):
        (run / "reward" / f"{name}.json").write_text(json.dumps(told))
    asked = ["--tasks", "reward", "--reward", str(run / "reward"), "--run_dir", str(run)]
    evaluate.main([*arguments, *asked, "--rankings", file])
    found = report_of(tmp_path)
    assert found["ranked_by"] == "maria" and found["reward"]["n_pairs"] == 4
    assert "own" not in found["reward"]
    assert [one["name"] for one in record_of(tmp_path)["data"]["rankings"]] == [file]
    # whether the step failed is judged by what it held out itself
    [chance] = [one for one in found["diagnosis"] if one["rule"] == "reward_at_chance"]
    assert chance["evidence"]["n_pairs"] == 99
    assert f"({file}, 4 pairs)" in capsys.readouterr().out
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "hers.jsonl" in text and "scripted labeler" not in text, name


def test_a_task_of_some_of_the_models(arguments, tmp_path):
    evaluate.main([*arguments, "--tasks", "tax", "harmless:ppo", "truthful:ppo,sft"])
    found = report_of(tmp_path)
    assert found["tasks"] == ["tax", "harmless", "truthful"]
    assert list(found["harmless"]["models"]) == ["ppo"]
    assert list(found["truthful"]["files"]["truths"]["models"]) == ["sft", "ppo"]
    assert list(found["tax"]["files"]["texts"]["models"]) == ["sft", "ppo"]
    flags = record_of(tmp_path)["flags"]
    assert flags["task_models"]["harmless"] == ["ppo"]
    assert not (tmp_path / "report" / "harmless" / "sft.jsonl").exists()


def test_the_record_identifies_every_file_that_a_task_read(arguments, tmp_path):
    data = []
    for text in ("A text.", "Another one."):
        write_jsonl(tmp_path / "texts.jsonl", [{"text": text}])
        evaluate.main([*arguments, "--tasks", "truthful", "harmless", "tax"])
        data.append(record_of(tmp_path)["data"])
    first, then = data
    for flag, name in (
        ("truthful_file", "truths"),
        ("task_file", "texts"),
        ("harmless_input", "harm"),
    ):
        [of] = first[flag]
        assert of["name"] == str(tmp_path / f"{name}.jsonl") and len(of["sha256"]) == 64
    # of a task that was not asked for
    assert "reward_file" not in first and "samples" not in first
    assert [flag for flag in first if first[flag] != then[flag]] == ["task_file"]


def test_the_record_identifies_what_is_found_in_the_run(arguments, reward_model, tmp_path):
    run, drawn = tmp_path / "run", {"completions": ["Yes!", "No."], "model": ["m", "m"]}
    shutil.copytree(reward_model, run / "reward")
    at_one = {"sampling": [{"temperature": 1.0}] * 2}
    rows = [{"prompt": f"Say {i}.", **drawn, **at_one} for i in range(4)]
    samples = write_jsonl(run / "samples.jsonl", rows)
    tasks = ["--tasks", "overoptimisation", "harmless"]
    (judge_model, other) = (save_model(tmp_path / name, seed=s) for s, name in enumerate("ab"))
    toxic = save_classifier(tmp_path / "classifier", ["neutral", "toxic"])
    asked = [*arguments, *tasks, "--run_dir", str(run), "--judge", f"scripted:{judge_model}"]
    evaluate.main([*asked, "--fit_model", judge_model, "--toxicity_model", toxic])
    record = record_of(tmp_path)
    assert record["reward"] == model_identity(str(run / "reward"))
    assert [one["name"] for one in record["data"]["samples"]] == [samples]
    assert record["toxicity_model"] == model_identity(toxic)
    judges = record["judges"]
    assert [judge["spec"] for judge in judges.values()] == [
        f"scripted:{judge_model}", f"fit:{judge_model}"
    ]  # fmt: skip
    # another model in the same place is another judge
    shutil.rmtree(judge_model)
    shutil.copytree(other, judge_model)
    evaluate.main([*asked, "--fit_model", judge_model])
    record = record_of(tmp_path)
    assert record["toxicity_model"] is None  # the word list
    for name, judge in record["judges"].items():
        assert judge["spec"] == judges[name]["spec"] and judge["key"] != judges[name]["key"]


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
