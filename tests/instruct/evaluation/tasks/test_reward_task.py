"""What is said of a reward model: on random rankings by plain loops, and by the whole task."""

import json
import shutil
from argparse import ArgumentParser, Namespace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import write_jsonl
from safetensors.torch import load_file, save_file

from instruct.errors import UserError
from instruct.evaluation import kept_scores
from instruct.evaluation.scores_beside import FILE, TRIED, leave_scores, text_key
from instruct.evaluation.tasks import reward_model as reward
from instruct.files import write_json
from instruct.models import RewardModel, load_reward

LABELERS = ("ada", "<b>", "cyd")


def ranking(i: int, rng) -> dict:
    k = int(rng.integers(2, 5))
    return {
        "prompt": [{"role": "user", "content": f"Question {i % 15}?"}],
        "completions": [f"I like {'tea ' * int(rng.integers(1, 9))}{i} {j}." for j in range(k)],
        "ranks": rng.integers(1, 4, k).tolist(),
        "labeler": LABELERS[i % 3],
        "user_id": f"user {i % 8}",
    }


@pytest.fixture()
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    return [ranking(i, rng) for i in range(40)]


@pytest.fixture()
def arguments(rows, reward_model, tmp_path):
    def parsed(*more: str, **changes):
        parser = ArgumentParser()
        reward.add_flags(parser)
        args = parser.parse_args(list(more))
        vars(args).update(
            reward=reward_model, run_dir=None, output_dir=tmp_path / "out",
            overwrite_output_dir=False, dtype="float32",
        )  # fmt: skip
        vars(args).update(changes)
        return args

    write_jsonl(tmp_path / "rankings.jsonl", rows)
    return parsed


def right(row: dict, scores: list[float]) -> list[float]:
    return [
        float(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for a, b in combinations(range(len(scores)), 2)
        for i, j in ((a, b), (b, a))
        if row["ranks"][i] < row["ranks"][j]
    ]


def test_numbers_of_labelers_equal_plain_loops(rows):
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=len(row["ranks"])).tolist() for row in rows]
    lengths = [[len(text) for text in row["completions"]] for row in rows]
    found = reward.of_rankings(rows, scores, lengths, {"ada", "cyd"})
    assert list(found["by_labeler"]) == sorted(LABELERS)
    for name in LABELERS:
        some = [r for row, s in zip(rows, scores, strict=True) if row["labeler"] == name
                for r in right(row, s)]  # fmt: skip
        entry = found["by_labeler"][name]
        assert entry["accuracy"] == pytest.approx(np.mean(some)) and entry["n_pairs"] == len(some)
        assert entry["accuracy_low"] <= entry["accuracy"] <= entry["accuracy_high"]
        assert entry["trained_on"] is (name != "<b>")
    wanted = found["by_labeler"]["<b>"]
    assert found["held_out_labelers"] == {
        "labelers": ["<b>"], **{key: wanted[key] for key in reward.ACCURACY}
    }  # fmt: skip
    by_length = [r for row, n in zip(rows, lengths, strict=True) for r in right(row, n)]
    assert found["length_accuracy"]["accuracy"] == pytest.approx(np.mean(by_length))
    assert found["calibration"]["n_pairs"] == found["n_pairs"] == len(by_length)
    unknown = reward.of_rankings(rows, scores, lengths)
    assert unknown["held_out_labelers"] is None
    assert {entry["trained_on"] for entry in unknown["by_labeler"].values()} == {None}
    # as labelers rank: what they prefer goes with length where the best is the longest
    order = [[-n for n in row] for row in lengths]
    liked = [{**row, "ranks": ranks} for row, ranks in zip(rows, order, strict=True)]
    found = reward.of_rankings(liked, scores, lengths)
    assert found["length_correlation"]["labels_spearman"]["mean"] == pytest.approx(1)
    assert found["length_accuracy"]["accuracy"] == 1


def test_the_task_scores_each_text_once_and_says_the_same_again(
    arguments, rows, reward_model, tmp_path, monkeypatch
):
    pairs = [
        {"prompt": f"Question {i}?", "chosen": f"Good {i}", "rejected": "Bad"} for i in range(9)
    ]
    hhh = write_jsonl(tmp_path / "hhh.jsonl", pairs)
    args = arguments("--rankings", str(tmp_path / "rankings.jsonl"), "--reward_file", hhh)
    reward.check({}, args)
    monkeypatch.setattr(kept_scores, "AT_ONCE", 16)
    found = reward.measure({}, args)
    json.dumps(found, allow_nan=False)
    # the numbers are the model's
    model = load_reward(reward_model)
    own = [r for row in rows for r in right(row, model.score(
        [row["prompt"]] * len(row["ranks"]), row["completions"]))]  # fmt: skip
    assert found["accuracy"] == pytest.approx(np.mean(own)) and found["n_pairs"] == len(own)
    good, bad = (
        model.score([row["prompt"] for row in pairs], [row[key] for row in pairs])
        for key in ("chosen", "rejected")
    )
    share = np.mean([g > b for g, b in zip(good, bad, strict=True)])
    assert found["files"]["hhh"]["accuracy"] == pytest.approx(share)
    assert found["files"]["hhh"]["n_pairs"] == 9
    # a kill in the middle: some steps are there, and half a line
    (file,) = Path(args.output_dir / "scores").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:20])
    asked = []
    score = kept_scores.scores_of

    def counted(function, what, prompts, completions, **columns):
        asked.extend(zip(map(str, prompts), completions, strict=True))
        return score(function, what, prompts=prompts, completions=completions, **columns)

    monkeypatch.setattr(kept_scores, "scores_of", counted)
    assert reward.measure({}, args) == found
    texts = sum(len(row["completions"]) for row in rows) + 18
    assert len(asked) == len(set(asked)) == texts - 32
    asked.clear()
    assert reward.measure({}, args) == found and not asked
    said = "\n".join(reward.lines(found))
    assert "| hhh |" in said and "expected calibration error" in said and "<b>" not in said


def texts_of(rows: list[dict]) -> list[dict]:
    return [
        {"prompt": row["prompt"], "completion": text} for row in rows for text in row["completions"]
    ]


def counted(monkeypatch) -> list:
    """Fills with the texts that the reward model computes."""
    asked, score_ids = [], RewardModel.score_ids

    def spy(self, ids, *more):
        asked.extend(ids)
        return score_ids(self, ids, *more)

    monkeypatch.setattr(RewardModel, "score_ids", spy)
    return asked


def test_scores_that_the_reward_step_left_are_taken(
    arguments, rows, reward_model, tmp_path, monkeypatch, capsys
):
    path = shutil.copytree(reward_model, tmp_path / "reward")
    args = arguments("--rankings", str(tmp_path / "rankings.jsonl"), reward=str(path))
    plain = reward.measure({}, args)
    texts, model = texts_of(rows), load_reward(str(path))
    given = model.score([t["prompt"] for t in texts], [t["completion"] for t in texts])
    # as computed with a shared prompt: rounding apart
    some = texts[: len(texts) // 2]
    leave_scores(path, some, [s + 1e-6 for s in given[: len(some)]])
    left = len({text_key(text) for text in some})
    asked = counted(monkeypatch)
    args.output_dir = tmp_path / "taken"
    found = reward.measure({}, args)
    assert len(asked) == TRIED + len({text_key(text) for text in texts}) - left
    assert f"{left} of {len(texts)} scores are those of the reward step" in capsys.readouterr().out
    for key in ("accuracy", "n_pairs", "kendall_tau", "by_labeler", "length_accuracy"):
        assert found[key] == plain[key]
    assert found["calibration"]["ece"] == pytest.approx(plain["calibration"]["ece"], abs=1e-5)
    # the same once more, from what the report keeps
    asked.clear()
    assert reward.measure({}, args) == found and not asked
    # to ask anew is to ask anew
    anew = {**vars(args), "overwrite_output_dir": True, "output_dir": tmp_path / "anew"}
    assert reward.measure({}, Namespace(**anew)) == plain
    assert len(asked) == len({text_key(text) for text in texts})


@pytest.mark.parametrize("change", ["weights", "bias", "numbers", "torn"])
def test_scores_of_another_model_are_not_taken(
    arguments, rows, reward_model, tmp_path, monkeypatch, change
):
    path = shutil.copytree(reward_model, tmp_path / "reward")
    write_json(path / "reward_head.json", {"bias": 0.5})
    args = arguments("--rankings", str(tmp_path / "rankings.jsonl"), reward=str(path))
    texts = texts_of(rows)
    leave_scores(path, texts, [float(i) for i in range(len(texts))])
    file = path / FILE
    if change == "weights":
        weights = load_file(path / "model.safetensors")
        weights["score.weight"] *= -1
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    elif change == "bias":
        write_json(path / "reward_head.json", {"bias": 0.25})
    elif change == "torn":
        file.write_text(file.read_text()[:-9])
    asked = counted(monkeypatch)
    found = reward.measure({}, args)
    count = len({text_key(text) for text in texts})
    # what only the numbers tell, a few texts tell
    assert len(asked) == count + (TRIED if change == "numbers" else 0)
    file.unlink()
    args.output_dir = tmp_path / "plain"
    assert reward.measure({}, args) == found


def test_a_run_says_which_labelers_were_learned_from(arguments, rows, reward_model, tmp_path):
    run = tmp_path / "run"
    (run / "comparisons").mkdir(parents=True)
    write_jsonl(run / "comparisons" / "train.jsonl", rows[:20])
    write_jsonl(run / "comparisons" / "validation.jsonl", rows[20:])
    (run / "reward").symlink_to(reward_model)
    args = arguments(reward=None, run_dir=run)
    reward.check({}, args)
    assert reward.measure({}, args)["by_labeler"]["ada"]["trained_on"] is None
    record, metrics = Path(reward_model) / "run.json", Path(reward_model) / "metrics.json"
    record.write_text(json.dumps({"step": "reward", "labelers": list(LABELERS)}))
    metrics.write_text(json.dumps({"held_out_labelers": {"labelers": ["cyd"]}}))
    try:
        found = reward.measure({}, args)
    finally:
        record.unlink(), metrics.unlink()
    learned = {name: entry["trained_on"] for name, entry in found["by_labeler"].items()}
    assert learned == {"<b>": True, "ada": True, "cyd": False}
    assert found["n_rankings"] <= 20 and found["held_out_labelers"]["labelers"] == ["cyd"]


def test_a_score_that_is_no_number_is_told_with_task_model_and_text(
    arguments, tmp_path, monkeypatch
):
    args = arguments("--rankings", str(tmp_path / "rankings.jsonl"))
    monkeypatch.setattr(
        "instruct.models.RewardModel.score_ids", lambda self, ids, n: [np.nan] * len(ids)
    )
    with pytest.raises(
        UserError, match="^--tasks reward, .* on rankings.jsonl: .* nan .*I like tea"
    ):
        reward.measure({}, args)


def test_what_cannot_work_is_told_before_anything_is_asked(arguments, tmp_path):
    with pytest.raises(UserError, match="--tasks reward needs a reward model: give --reward"):
        reward.check({}, arguments(reward=None))
    with pytest.raises(UserError, match="needs held-out rankings: give --rankings FILE"):
        reward.check({}, arguments())
    with pytest.raises(UserError, match="--rankings .*none.jsonl: no such file"):
        reward.check({}, arguments("--rankings", str(tmp_path / "none.jsonl")))
    tied = [{"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 1]}]
    file = write_jsonl(tmp_path / "tied.jsonl", tied)
    with pytest.raises(UserError, match="--reward_file .*tied.jsonl: no ranking of two answers"):
        reward.check({}, arguments("--reward_file", file))
    bad = write_jsonl(
        tmp_path / "bad.jsonl", [{"prompt": "Hi", "completions": ["a"], "ranks": [1, 2]}]
    )
    with pytest.raises(UserError, match="bad.jsonl, line 1: 2 ranks for 1 completions"):
        reward.check({}, arguments("--reward_file", bad))
