"""The task on a planted run: which outputs count, whose gold score it is; nothing asked twice."""

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from conftest import save_model, write_jsonl

from instruct.errors import UserError
from instruct.evaluation import kept_scores
from instruct.evaluation.best_of_n import best_of_n
from instruct.evaluation.likelihoods import completion_logprobs
from instruct.evaluation.modes import Asked
from instruct.evaluation.scripted import scripted_reward
from instruct.evaluation.tasks import overoptimisation as task
from instruct.models import load_policy, load_reward
from instruct.run.checkpoints import seal
from instruct.run.fingerprints import model_identity
from instruct.tokens import encode_prompt_of

WORDS = ("great", "awful", "good", "I love it", "bad", "I hate that", "tea", "the sea")


def prompt(i: int) -> list[dict]:
    return [{"role": "user", "content": f"Question {i}?"}]


def sampled(i: int, rng, model: str = "sft/merged", temperature: float = 1.0, k: int = 4) -> dict:
    return {
        "prompt_id": f"p{i}", "prompt": prompt(i), "user_id": f"u{i % 4}",
        "completions": [f"{i} {' '.join(rng.choice(WORDS, 3))}." for _ in range(k)],
        "model": [model] * k, "sampling": [{"temperature": temperature}] * k,
    }  # fmt: skip


@pytest.fixture()
def run(tmp_path, reward_model) -> Path:
    """Samples of 12 prompts, 4 of which were learned from, and a log of two rollouts."""
    folder, rng = tmp_path / "run", np.random.default_rng(0)
    (folder / "comparisons").mkdir(parents=True)
    (folder / "ppo").mkdir()
    (folder / "reward").symlink_to(reward_model)
    rows = [sampled(i, rng) for i in range(12)]
    write_jsonl(folder / "samples.jsonl", rows)
    learned = [{**row, "ranks": [1, 2, 3, 4]} for row in rows[:4]]
    write_jsonl(folder / "comparisons" / "train.jsonl", learned)
    log = [
        {"step": 2 * s, "objective/kl": 0.5 * s, "objective/scores": 0.1,
         "rewards/reward_model": 0.2 * s, "rewards/scripted_reward": 0.3}
        for s in range(2)
    ]  # fmt: skip
    (folder / "ppo" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    return folder


@pytest.fixture()
def arguments(run, tmp_path):
    def parsed(*more: str, **changes):
        parser = ArgumentParser()
        task.add_flags(parser)
        args = parser.parse_args(list(more))
        rows = [{"prompt_id": f"h{i}", "user_id": f"u{i % 3}", "prompt": prompt(50 + i)}
                for i in range(5)]  # fmt: skip
        vars(args).update(
            reward=None, run_dir=run, output_dir=tmp_path / "out", overwrite_output_dir=False,
            dtype="float32", judge=["scripted"], judge_name=None, reference="sft", prompts=rows,
            batch_size=8, seed=0, max_new_tokens=4, temperature=0.7, show_temperature=0.5,
            input="held-out", limit=5, asked={"n": 5, "of": 9, "seed": 0},
        )  # fmt: skip
        vars(args).update(changes)
        return args

    return parsed


def test_best_of_n_of_the_outputs_that_were_ranked_and_of_unseen_prompts(arguments, run):
    args = arguments()
    task.check({}, args)
    found = task.measure({}, args)
    json.dumps(found, allow_nan=False)
    assert found["n_prompts"] == 8 and found["n_outputs"] == 4
    assert "for each of 8 of 12 prompts (KL" in "\n".join(task.lines(found))
    model, learned, gold = load_reward(str(run / "reward")), [], []
    for line in (run / "samples.jsonl").read_text().splitlines()[4:]:
        row = json.loads(line)
        learned.append(model.score([row["prompt"]] * 4, row["completions"]))
        gold.append(scripted_reward([row["prompt"]] * 4, row["completions"]))
    for point in found["best_of_n"]:
        for name, values in (("reward", learned), ("gold", gold)):
            expected = [best_of_n(s, v, point["n"]) for s, v in zip(learned, values, strict=True)]
            assert point[name] == pytest.approx(np.mean(expected), abs=1e-5)
    assert [point["n"] for point in found["best_of_n"]] == [1, 2, 3, 4]
    assert [(p["step"], p["reward"], p["gold"]) for p in found["ppo"]] == [
        (0, 0, 0.3),
        (2, 0.2, 0.3),
    ]
    said = "\n".join(task.lines(found))
    assert "8 of 12 prompts" in said and said.count("| step |") == 1 and "√KL" in said


def test_the_gold_score_is_his_whom_ppo_watched(arguments, tiny_model):
    reads = [f"scripted:{tiny_model}"]
    log = [{"rewards/scripted_reward": 1.0}]
    judge, logged = task.gold_of(arguments(judge=reads), log)
    assert judge.spec == "scripted" and logged == "scripted_reward"
    log = [{"rewards/scripted_reward": 1.0, "rewards/scripted_reader": 1.0}]
    judge, logged = task.gold_of(arguments(judge=reads, judge_name=["<taste>"]), log)
    assert judge.spec == reads[0] and logged == "scripted_reader" and judge.name == "<taste>"
    judge, logged = task.gold_of(arguments(judge=[f"logprob:{tiny_model}"]), log)
    assert logged is None and judge.spec.startswith("logprob")


def test_another_function_of_the_name_that_ppo_logged_is_not_the_gold(arguments, run):
    log = [{"rewards/given_two_thirds": 1.0}]
    args = arguments(judge=["harmless_tools:given_two_thirds"])
    assert task.gold_of(args, log)[1] == "given_two_thirds"  # nobody recorded whose it is
    for recorded, logged in (("harmless_tools", "given_two_thirds"), ("others", None)):
        flags = {"reward_funcs": [f"{recorded}:given_two_thirds"]}
        (run / "ppo" / "run.json").write_text(json.dumps({"step": "ppo", "flags": flags}))
        assert task.gold_of(args, log)[1] == logged


def test_a_log_of_another_reward_model_gives_no_curve(arguments, run, reward_model, capsys):
    record = {"step": "ppo", "adapters": {"reward_model_path": model_identity(reward_model)}}
    (run / "ppo" / "run.json").write_text(json.dumps(record))
    assert len(task.measure({}, arguments())["ppo"]) == 2
    record["adapters"]["reward_model_path"] = {"name": "rm", "sha256": "0" * 64}
    (run / "ppo" / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    found = task.measure({}, arguments())
    assert found["ppo"] == [] and found["best_of_n"]
    assert f"{run / 'ppo'} learned from rm, not from" in capsys.readouterr().out
    # the same model, as a function
    record["adapters"] = {
        "reward_model_path": None,
        "reward_funcs reward": model_identity(reward_model),
    }
    (run / "ppo" / "run.json").write_text(json.dumps(record))
    assert len(task.measure({}, arguments())["ppo"]) == 2
    record["adapters"] = {"reward_model_path": None}  # it learned from functions of no model
    (run / "ppo" / "run.json").write_text(json.dumps(record))
    assert task.measure({}, arguments())["ppo"] == []
    assert f"{run / 'ppo'} learned from no reward model, not" in capsys.readouterr().out


def test_the_record_names_the_samples_that_are_read(arguments, run):
    log = run / "ppo" / "trainer_state.json"
    assert task.sources(arguments()) == {
        "samples": [str(run / "samples.jsonl")],
        "comparisons": [run / "comparisons" / "train.jsonl"],
        "ppo_log": [log],
    }
    # drawn anew, they are of no file
    anew = task.sources(arguments("--best_of_n", "2"))
    assert anew == {"samples": [], "comparisons": [], "ppo_log": [log]}
    log.unlink()
    assert task.sources(arguments())["ppo_log"] == []


def test_outputs_that_another_model_drew_are_not_the_references(arguments, run, tiny_model, capsys):
    record = {"step": "sample", "model_name_or_path": ["sft/merged"], "models": ["0" * 64]}
    file = run / "samples.jsonl.run"
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match="no two outputs of a prompt were drawn from --reference"):
        task.check({"sft": Asked(tiny_model)}, arguments())
    for text in ('{"step": "sam', json.dumps({**record, "models": ["0" * 64] * 2})):
        file.write_text(text)
        with pytest.raises(UserError, match="samples.jsonl.run cannot be read, so nobody can say"):
            task.check({"sft": Asked(tiny_model)}, arguments())
    # of another command: nobody noted which it was, and one model drew all
    file.write_text(json.dumps({"step": "label", "models": {"judge": "0" * 64}}))
    capsys.readouterr()
    task.check({"sft": Asked(tiny_model)}, arguments())
    assert capsys.readouterr().out == ""  # it is said once, with the result
    task.measure({"sft": Asked(tiny_model)}, arguments())
    assert "sft/merged is taken as --reference sft" in capsys.readouterr().out
    record["models"] = [model_identity(tiny_model)["sha256"]]
    file.write_text(json.dumps(record))
    task.check({"sft": Asked(tiny_model)}, arguments())


def test_outputs_of_others_do_not_count(arguments, run, tmp_path):
    rng = np.random.default_rng(1)
    rows = [sampled(20 + i, rng) for i in range(6)]
    for row in rows:  # one of another model, one at another temperature, one a person's
        row["model"][0], row["sampling"][1] = "other", {"temperature": 0.5}
        row["completions"].append("A person's.")
        row["model"].append("people")
        row["sampling"].append(None)
    file = write_jsonl(tmp_path / "mixed.jsonl", rows)
    args = arguments("--samples", file)
    found = task.drawn_for_ranking(file, {"sft": Asked("sft/merged")}, args)
    assert [row["completions"] for row in found] == [row["completions"][2:4] for row in rows]
    with pytest.raises(UserError, match="no two outputs of a prompt were drawn from --ref"):
        task.drawn_for_ranking(file, {"sft": Asked("elsewhere")}, args)
    # as `data_prep.sample` writes a row of a shorter one: those of one length are taken
    rows = [sampled(20 + i, rng, k=3 if i else 2) for i in range(4)]
    found = task.drawn_for_ranking(write_jsonl(tmp_path / "s.jsonl", rows), {}, args)
    assert [len(row["completions"]) for row in found] == [3, 3, 3]
    shutil.copy(run / "samples.jsonl", run / "comparisons" / "train.jsonl")
    with pytest.raises(UserError, match="the reward model learned from all its 12 prompts"):
        task.check({}, arguments())


def test_new_outputs_are_drawn_in_steps_and_kept(arguments, tiny_model, monkeypatch):
    models, args = {"sft": Asked(tiny_model)}, arguments("--best_of_n", "6")
    task.check(models, args)
    found = task.measure(models, args)
    assert "each of 5 of 9 prompts, drawn with seed 0 (KL" in "\n".join(task.lines(found))
    assert found["n_prompts"] == 5 and [p["n"] for p in found["best_of_n"]] == [1, 2, 3, 4, 5, 6]
    file = args.output_dir / "overoptimisation" / "sft.jsonl"
    whole = file.read_text()
    assert len(whole.splitlines()) == 6  # a prompt a step, as 8 outputs fit once
    drawn, own = [], task.generate_ids

    def counted(model, tokenizer, prompts, *args):
        drawn.append(len(prompts))
        return own(model, tokenizer, prompts, *args)

    monkeypatch.setattr(task, "generate_ids", counted)
    file.write_text("".join(whole.splitlines(keepends=True)[:3]))  # killed
    assert task.measure(models, args) == found and drawn == [1, 1, 1]
    assert file.read_text() == whole
    drawn.clear()
    monkeypatch.setattr(kept_scores, "scores_of", None)  # nothing is scored anew
    assert task.measure(models, args) == found and not drawn
    # more than a batch of one prompt
    many = list(task._steps(2, 20, 8))
    assert many == [(f"{i} {j}", [i], 8 if j < 16 else 4) for i in range(2) for j in (0, 8, 16)]


def test_checkpoints_are_measured_from_the_reference(arguments, run, tiny_model):
    folder = run / "ppo" / "checkpoint-4"
    path = save_model(folder, seed=1, initializer_range=0.2)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    seal(folder)
    models = {"sft": Asked(tiny_model)}
    args = arguments("--overoptimisation_checkpoints", "--best_of_n", "0")
    task.check(models, args)
    found = task.measure(models, args)
    assert found["best_of_n"] == [] and [p["step"] for p in found["checkpoints"]] == [4]
    (policy, tokenizer), (reference, _) = load_policy(path), load_policy(tiny_model)
    file = args.output_dir / "overoptimisation" / "answers" / "step 4.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = [(encode_prompt_of(tokenizer, row, ""), row["completion_ids"]) for row in rows]
    ours, theirs = (completion_logprobs(model, pairs) for model in (policy, reference))
    kl = np.mean([a - b for a, b in zip(ours, theirs, strict=True)])
    assert found["checkpoints"][0]["kl"] == pytest.approx(kl, abs=1e-3) and kl > 0.1
    asked, texts = ([row[key] for row in rows] for key in ("prompt", "completion"))
    learned = load_reward(str(run / "reward")).score(asked, texts)
    assert found["checkpoints"][0]["reward"] == pytest.approx(np.mean(learned), abs=1e-5)
    assert "PPO's checkpoints:" in task.lines(found)


def test_what_cannot_work_is_told_first(arguments, run, tmp_path):
    with pytest.raises(UserError, match="--judge llm:.* compares answers"):
        task.check({}, arguments(judge=["llm:m@http://localhost:1/v1"]))
    with pytest.raises(UserError, match="--tasks overoptimisation needs a reward model"):
        task.check({}, arguments(run_dir=None))
    with pytest.raises(UserError, match="--best_of_n -1: must be 0 or more"):
        task.check({}, arguments("--best_of_n", "-1"))
    with pytest.raises(UserError, match="draws from --reference sft, which is none of --models"):
        task.check({"sft": Asked("x", "raw")}, arguments("--best_of_n", "4"))
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        task.check({"sft": Asked("x")}, arguments("--overoptimisation_checkpoints"))
    with pytest.raises(UserError, match="--samples .*none.jsonl: no such file"):
        task.check({}, arguments("--samples", str(tmp_path / "none.jsonl")))
    (run / "ppo" / "trainer_state.json").unlink()
    with pytest.raises(UserError, match="needs a --run_dir that holds ppo/trainer_state.json"):
        task.check({}, arguments("--best_of_n", "0"))
