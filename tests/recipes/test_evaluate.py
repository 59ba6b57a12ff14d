"""recipes/evaluate.py: answers, win rates, KL and the report's fields; nothing is asked twice."""

import json
import shutil
import subprocess
import sys

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl

from instruct.evaluation import answers as answers_module
from recipes import evaluate


@pytest.fixture()
def arguments(tiny_model, tmp_path):
    other = save_model(tmp_path / "other", seed=1, initializer_range=0.5)
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i % 4}"} for i in range(8)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", rows)
    return [
        "--models", f"sft={tiny_model}", f"ppo={other}", "--input", prompts,
        "--output_dir", str(tmp_path / "report"), "--max_new_tokens", "5", "--limit", "6",
    ]  # fmt: skip


def test_rows_without_an_id_or_user_are_told_apart(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b", "id": 0, "user_id": 0}, {"prompt": "c"}]
    found, _ = evaluate.held_out_prompts(write_jsonl(tmp_path / "p.jsonl", rows), 9, 0)
    named = {row["prompt"][0]["content"]: (row["prompt_id"], row["user_id"]) for row in found}
    # user 0 is a user; two rows without one are no cluster
    assert named["b"] == ("0", "0") and len({user for _, user in named.values()}) == 3
    assert "None" not in {i for i, _ in named.values()}


def test_a_prompt_keeps_the_id_that_it_has_in_its_file(tmp_path):
    rows = [{"prompt": "a", "prompt_id": 6}, {"prompt": "b", "id": "x", "prompt_id": "y"}]
    found, _ = evaluate.held_out_prompts(write_jsonl(tmp_path / "p.jsonl", rows), 9, 0)
    assert {row["prompt"][0]["content"]: row["prompt_id"] for row in found} == {"a": "6", "b": "x"}
    # of a log whose column says something else, say
    rows = [{"prompt": text, "prompt_id": "same"} for text in "ab"]
    found, _ = evaluate.held_out_prompts(write_jsonl(tmp_path / "q.jsonl", rows), 9, 0)
    assert sorted(row["prompt_id"] for row in found) == ["0", "1"]


def test_report_holds_answers_scores_intervals_and_kl(arguments, tmp_path, tiny_model):
    run = tmp_path / "run"
    for name, value in {
        "prompts/report.json": {"in": 10, "kept": 8, "removed": {"pii": 2}, "splits": {"train": 8}},
        "sft/trainer_state.json": {
            "log_history": [{"eval_loss": 3.0, "step": 0}, {"eval_loss": 2.0, "step": 4}]
        },
        "reward/metrics.json": {
            "accuracy": 0.7,
            "accuracy_low": 0.6,
            "accuracy_high": 0.8,
            "n_pairs": 50,
        },
        "ppo/trainer_state.json": {
            "log_history": [
                {
                    "step": s,
                    "objective/kl": 0.1 * s,
                    "objective/scores": 0.2,
                    "rewards/scripted_reward": 0.3,
                }
                for s in (1, 2)
            ]
        },
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(value))
    (run / "seconds.tsv").write_text("sft\t12\n")
    # curves are of the models that are asked, so these lie in the run
    shutil.copytree(tiny_model, run / "sft" / "merged")
    shutil.copytree(tmp_path / "other", run / "ppo", dirs_exist_ok=True)
    arguments[1:3] = [f"sft={run / 'sft' / 'merged'}", f"ppo={run / 'ppo'}"]
    evaluate.main([*arguments, "--run_dir", str(run)])
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["data"]["in"] == found["data"]["kept"] + sum(found["data"]["removed"].values())
    sft = {"eval_loss_before": 3.0, "eval_loss_after": 2.0}
    assert {key: found["sft"][key] for key in sft} == sft
    assert found["ppo"]["steps"][1] == {
        "step": 2, "gold": 0.3, "reward": 0.2, "kl": 0.2,
        "entropy": None, "length": None, "eos_rate": None,
    }  # fmt: skip
    assert found["win_rate"]["ppo_vs_sft"]["n"] == 6 and set(found["gold"]) == {"sft", "ppo"}
    assert found["seconds"]["sft"] == 12 and found["judge"] == "the scripted labeler"
    assert found["models"]["ppo"]["kl_from_sft"] > 0.5  # two random models are far apart
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "10 in = 8 kept + 2 removed" in text
        and "by the scripted labeler" in text
        and "![PPO curves](ppo.png)" in text
    )
    assert (tmp_path / "report" / "ppo.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "10 in = 8 kept + 2 removed" in page and "Step 3: PPO" in page


def test_steps_of_other_models_are_left_out_and_it_says_so(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "ppo").mkdir(parents=True)
    log = [{"step": 1, "objective/kl": 0.1}]
    (run / "ppo" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    evaluate.main([*arguments, "--run_dir", str(run)])
    assert f"{run / 'ppo'}: made none of --models, so the report leaves it out" in (
        capsys.readouterr().out
    )
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["ppo"]["steps"] == []


def test_same_model_has_no_kl_and_answers_are_not_asked_twice(
    arguments, tmp_path, tiny_model, monkeypatch
):
    arguments[2] = f"ppo={tiny_model}"
    evaluate.main(arguments)
    first = json.loads((tmp_path / "report" / "report.json").read_text())
    assert first["models"]["ppo"]["kl_from_sft"] == pytest.approx(0, abs=1e-4)
    assert first["win_rate"]["ppo_vs_sft"]["rate"] == 0.5  # the same seed: the same answers
    monkeypatch.setattr(answers_module, "answer", None)  # would fail if it were asked again
    evaluate.main(arguments)
    again = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {**again, "seconds": None} == {**first, "seconds": None}


def test_a_tie_has_a_width_of_its_own_for_the_scripted_labeler_alone(
    arguments, tmp_path, tiny_model
):
    nats = f"logprob:{tiny_model}"  # of a token: hardly ever 0.3 apart
    for given, width in (
        (["--judge", nats], 0.0),
        (["--judge", "scripted"], 0.3),
        (["--judge", nats, "--tie", "0.7"], 0.7),
    ):
        evaluate.main([*arguments, *given])
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        flags = json.loads((tmp_path / "report" / "run.json").read_text())["flags"]
        ties = report["win_rate"]["ppo_vs_sft"]["ties"]
        assert flags["tie"] == width and (ties == 0 if width == 0.0 else ties > 0)


def test_mistakes_are_one_sentence(arguments, capsys):
    for change, sentence in [
        (("--judge", "nowhere:f"), "no such module:function"),
        (("--input", "gone.jsonl"), "no such file"),
        (("--models", "nopath"), "name=path"),
    ]:
        with pytest.raises(SystemExit) as stop:
            evaluate.main([*arguments, *change])
        assert stop.value.code == 2 and sentence in capsys.readouterr().err


def nan_for_one(prompts, completions):
    return [float("nan")] + [0.0] * (len(prompts) - 1)


def text_judge(prompts, completions):
    return "better"


def numbers_as_text(prompts, completions):
    return ["0.5"] * len(prompts)


def one_too_few(prompts, completions):
    return [0.0] * (len(prompts) - 1)


def nothing(prompts, completions):
    pass


def fails(prompts, completions):
    raise ConnectionError("no judge there")


NO_FUNCTION = 3


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ("nan_for_one", "returned nan for the completion"),
        ("text_judge", "must return one number per completion, not 'better'"),
        ("numbers_as_text", "must return one number per completion, not '0.5'"),
        ("one_too_few", "returned 5 scores for 6 completions"),
        ("nothing", "must return one number per completion, not None"),
        ("fails", "raised ConnectionError: no judge there"),
        ("NO_FUNCTION", "is no function but int"),
    ],
)
def test_a_judge_that_gives_no_numbers_is_no_report(arguments, tmp_path, capsys, judge, sentence):
    said = stops(evaluate.main, [*arguments, "--judge", f"test_evaluate:{judge}"], capsys)
    assert f"test_evaluate:{judge}" in said and sentence in said
    assert not (tmp_path / "report" / "report.json").exists()


def test_a_nan_kept_by_an_earlier_version_is_judged_again(arguments, tmp_path):
    evaluate.main(arguments)
    kept = tmp_path / "report" / "answers" / "sft.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    name = "the scripted labeler"
    lost = [{**row, "scores": {name: float("nan")}} for row in rows]
    kept.write_text("".join(json.dumps(row) + "\n" for row in lost))
    evaluate.main(arguments)
    assert [json.loads(line) for line in kept.read_text().splitlines()] == rows


def test_answers_that_a_dead_run_was_writing_go(arguments, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    answers = tmp_path / "report" / "answers"
    answers.mkdir(parents=True)
    (answers / f".sft.jsonl.{dead.pid}.part").write_text('{"half')
    evaluate.main(arguments)
    assert sorted(path.name for path in answers.iterdir()) == ["ppo.jsonl", "sft.jsonl"]


def test_an_answer_that_the_reference_never_gives_has_no_kl(arguments, capsys, monkeypatch):
    monkeypatch.setattr(
        answers_module, "completion_logprobs", lambda model, pairs: [-float("inf")] * len(pairs)
    )
    said = stops(evaluate.main, arguments, capsys)
    assert "to prompt p" in said and "and -inf by" in said and "no KL" in said


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--reference", "zz", "--reference zz: is none of --models (sft, ppo)"),
        ("--policy", "zz", "--policy zz: is none of --models (sft, ppo)"),
        ("--run_dir", "/nowhere", "--run_dir /nowhere: no such run; it has to hold prompts, sft"),
        ("--judge_name", "The reward model", "a column of the report has that name already"),
    ],
)
def test_a_name_that_is_not_there_is_told_first(arguments, tmp_path, capsys, flag, value, sentence):
    assert sentence in stops(evaluate.main, [*arguments, flag, value], capsys)
    assert not (tmp_path / "report" / "answers").exists()
