"""recipes/evaluate.py with the paper's baselines, several judges and what a win has to show."""

import json
import random

import pytest
import torch
from command_tools import stops
from conftest import TOPICS, save_model, write_jsonl

from instruct.evaluation import answers as answers_module
from instruct.evaluation.likelihoods import completion_logprobs
from instruct.models import load_policy
from instruct.tokens import encode_prompt
from recipes import evaluate


@pytest.fixture(scope="module")
def demonstrations_file(tmp_path_factory):
    rows = [{"prompt": f"What of {t}?", "completion": f"I like {t}."} for t in TOPICS]
    return write_jsonl(tmp_path_factory.mktemp("d") / "train.jsonl", rows)


@pytest.fixture()
def arguments(tiny_model, tmp_path, demonstrations_file):
    """GPT, prompted, instruct, SFT and PPO; three of them are one model."""
    sft, ppo = (
        save_model(tmp_path / name, seed=seed, initializer_range=0.3)
        for name, seed in (("sft", 1), ("ppo", 2))
    )
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i}"} for i in range(20)]
    return [
        "--models", f"gpt={tiny_model}:raw",
        f"prompted={tiny_model}:few_shot={demonstrations_file}",
        f"instruct={tiny_model}", f"sft={sft}", f"ppo={ppo}",
        "--input", write_jsonl(tmp_path / "prompts.jsonl", rows),
        "--output_dir", str(tmp_path / "report"), "--max_new_tokens", "8",
    ]  # fmt: skip


def report_in(tmp_path) -> dict:
    return json.loads((tmp_path / "report" / "report.json").read_text())


def kept(tmp_path, name: str) -> list[dict]:
    file = tmp_path / "report" / "answers" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture()
def loads(monkeypatch):
    found, original = [], answers_module.load_policy

    def load(path, *args):
        found.append(path)
        return original(path, *args)

    monkeypatch.setattr(answers_module, "load_policy", load)
    return found


def test_baselines_judges_and_what_a_win_has_to_show(
    arguments, tmp_path, tiny_model, loads, capsys
):
    judges = ["--judge", "scripted", f"logprob:{tiny_model}", "--fit_model", tiny_model]
    evaluate.main([*arguments, *judges])
    found, said = report_in(tmp_path), capsys.readouterr().out
    # 1. Each model is loaded once, the reference last
    paths = [found["models"][name]["path"] for name in ("gpt", "ppo", "sft")]
    assert loads == paths

    # 2. Who was asked how
    modes = {name: model["mode"] for name, model in found["models"].items()}
    assert modes == {"gpt": "raw", "prompted": "few_shot", "instruct": "chat", "sft": "chat",
                     "ppo": "chat"}  # fmt: skip
    assert set(found["baselines"]) == {"gpt", "prompted", "instruct"}
    assert found["baselines"]["gpt"]["ppo_wins"] == found["win_rate"]["ppo_vs_gpt"]
    assert found["baselines"]["gpt"]["sft_wins"] == found["win_rate"]["sft_vs_gpt"]
    assert len(found["models"]["prompted"]["examples"]["pairs"]) == 4
    kl = {name: found["models"][name].get("kl_from_sft") for name in modes}
    assert (
        kl["gpt"] is None and kl["prompted"] is None and "kl_from_sft" not in found["models"]["sft"]
    )
    assert kl["instruct"] > 0.1 and kl["ppo"] > 0.1

    # 3. Judges side by side; the first is gold
    second = "the log-probability by llama"
    assert list(found["judges"]) == ["the scripted labeler", second]
    assert [judge["independent"] for judge in found["judges"].values()] == [False, True]
    assert found["win_rate"] == found["judges"]["the scripted labeler"]["win_rate"]
    assert found["judges"][second]["win_rate"] != found["win_rate"]
    # random weights: the mean log-probability of a token is about that of a uniform draw
    assert found["models"]["gpt"]["scores"][second]["mean"] == pytest.approx(-6.2, abs=0.5)

    # 4. No cheating
    collapse, models = found["collapse"], found["models"]
    assert collapse["kl"] == kl["ppo"] and collapse["holds"]["kl"] == (kl["ppo"] <= 7)
    ratio = models["ppo"]["distinct2"] / models["sft"]["distinct2"]
    assert collapse["distinct2_ratio"] == pytest.approx(ratio)
    fits = [models[name]["fit"]["mean"] for name in ("ppo", "sft")]
    assert collapse["fit_ratio"] == (pytest.approx(fits[0] / fits[1]) if fits[1] > 0 else None)
    text = (tmp_path / "report" / "report.md").read_text()
    first = text.splitlines()[2].replace("\\", "")
    assert "ppo" in first and "against sft" in first or "beats sft" in first or "does not" in first
    assert "by a judge that nothing was trained on or filtered by" in text.replace("\\", "")
    assert "talk to it: " in said
    assert f"python recipes/chat.py --models sft={paths[2]} ppo={paths[1]}" in said

    # a judge that is the policy or the reference is not independent of them
    name = f"the log-probability by {paths[1].rpartition('/')[2]}"
    both = ["--judge", "scripted", f"logprob:{paths[1]}", f"logprob:{paths[2]}"]
    evaluate.main([*arguments, *both])
    told = report_in(tmp_path)["judges"]
    assert name in told and not any(judge["independent"] for judge in told.values())
    evaluate.main([*arguments, *judges])

    # 5. Run again, nobody is loaded or asked, and nothing changes
    loads.clear()
    evaluate.main([*arguments, *judges])
    assert loads == [] and {**report_in(tmp_path), "seconds": 0} == {**found, "seconds": 0}


@pytest.mark.parametrize("more", [[], ["--temperature", "0.7"], ["--dtype", "bfloat16"]])
def test_kl_is_that_of_two_passes_over_the_answers(arguments, tmp_path, tokenizer, more):
    """As sampling and the reference, loaded once, computed it; and where sampling cannot say."""
    evaluate.main([*arguments, *more])
    found, rows = report_in(tmp_path), kept(tmp_path, "ppo")
    pairs = [(encode_prompt(tokenizer, row["prompt"]), row["completion_ids"]) for row in rows]
    dtype = "bfloat16" if "bfloat16" in more else "float32"
    with torch.no_grad():
        ours, theirs = (
            completion_logprobs(load_policy(found["models"][name]["path"], dtype)[0], pairs)
            for name in ("ppo", "sft")
        )
    mean = sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(pairs)
    assert found["models"]["ppo"]["kl_from_sft"] == pytest.approx(mean, abs=1e-4)


def test_plain_answers_are_one_line(arguments, tmp_path):
    evaluate.main([*arguments, "--max_new_tokens", "40"])
    rows = kept(tmp_path, "gpt") + kept(tmp_path, "prompted")
    assert not any("\n" in row["completion"] for row in rows)
    # random tokens hit a new line now and then, and rarely the end of a turn
    stopped = [row for row in rows if row["ended"]]
    assert stopped and len(stopped) < len(rows)
    assert all(row["tokens"] == 40 for row in rows if not row["ended"])
    assert not any("logprob" in row for row in rows)


def lengths(prompts, completions):
    return [float(len(text)) for text in completions]


def test_a_cache_knows_mode_and_examples(arguments, tmp_path, tiny_model, monkeypatch):
    asked, original = [], answers_module.answer

    def answer(model, *args):
        asked.append(model.name)
        return original(model, *args)

    def run(argv) -> set[str]:
        asked.clear()
        evaluate.main(argv)
        return set(asked)

    monkeypatch.setattr(answers_module, "answer", answer)
    assert run(arguments) == {"gpt", "prompted", "instruct", "sft", "ppo"}
    assert run(arguments) == set()
    # 1. Another mode
    assert run([f"gpt={tiny_model}" if a.startswith("gpt=") else a for a in arguments]) == {"gpt"}
    # 2. Other examples at the same place
    file = tmp_path / "train.jsonl"
    moved = [f"prompted={tiny_model}:few_shot={file}" if a.startswith("prompted=") else a
             for a in arguments]  # fmt: skip
    for words in ("one", "two"):
        write_jsonl(file, [{"prompt": f"{words}?", "completion": words}])
        assert "prompted" in run(moved)
    # 3. A judge is asked of answers that are there
    assert run([*moved, "--judge", "test_baselines:lengths"]) == set()


def test_held_out_rows_are_no_examples(arguments, tmp_path, tiny_model, capsys):
    for name in ("validation.jsonl", "test-00000-of-00001.jsonl", "my_eval.jsonl"):
        file = write_jsonl(tmp_path / name, [{"prompt": "a", "completion": "b"}])
        argv = [*arguments, "--models", f"prompted={tiny_model}:few_shot={file}"]
        said = stops(evaluate.main, argv, capsys)
        assert file in said and "held-out rows are no examples" in said
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["--models", "a=m:bare"], "no such mode as 'bare'"),
        (["--models", "a=MODEL:few_shot=/gone.jsonl"], "gone.jsonl: no such file"),
        (["--judge", "scripted", "scripted"], "are both called"),
        (["--judge", "scripted", "--judge_name", "a", "b"], "2 names for 1 judges"),
        (["--judge", "scripted", "logprob:/no/folder"], "/no/folder"),
        (["--fit_model", "/no/folder"], "--fit_model"),
        (["--show_temperature", "warm"], "--show_temperature"),
        (["--show_temperature", "-1"], "--show_temperature"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_answered(
    arguments, tmp_path, tiny_model, capsys, loads, change, why
):
    change = [word.replace("MODEL", tiny_model) for word in change]
    assert why in stops(evaluate.main, [*arguments, *change], capsys)
    assert loads == [] and not (tmp_path / "report" / "answers").exists()


def test_shown_answers_are_drawn_and_told_apart(arguments, tmp_path):
    evaluate.main([*arguments, "--show_temperature", "0"])
    found = report_in(tmp_path)
    rows = random.Random(0).sample(range(20), 12)
    assert found["shown"]["rows"] == sorted(rows) != list(range(12))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "12 of 20 prompts, drawn with seed 0." in text
    assert "At temperature 0, easier to read:" in text and "at temperature 1, with gold" in text
    shown = [row.get("shown") for row in kept(tmp_path, "ppo")]
    assert [i for i, words in enumerate(shown) if words is not None] == sorted(rows)
    # what is measured does not depend on what is shown
    first = [row["completion"] for row in kept(tmp_path, "ppo")]
    evaluate.main([*arguments, "--show_temperature", "off"])
    assert [row["completion"] for row in kept(tmp_path, "ppo")] == first
    text = (tmp_path / "report" / "report.md").read_text()
    assert "easier to read" not in text and "as they are measured" in text.lower()
