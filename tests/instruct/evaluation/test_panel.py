"""Several judges: their names, and scores that are kept with the answers."""

import json

import pytest
from conftest import make_tokenizer, save_model
from transformers import AutoModelForSequenceClassification

from instruct.errors import UserError
from instruct.evaluation import panel
from instruct.evaluation.collapse import aimed_at
from instruct.evaluation.panel import add_scores, fit_judge, panel_of, reward_judge
from instruct.models import load_reward
from instruct.run.fingerprints import model_identity
from instruct.run.run_record import write_record


def lengths(prompts, completions):
    return [float(len(text)) for text in completions]


def nothing_new(prompts, completions):
    raise AssertionError("asked again")


OURS = "test_panel:lengths"


def test_judges_are_called_by_what_they_are(tiny_model):
    specs = ["scripted", f"scripted:{tiny_model}", f"logprob:{tiny_model}", OURS]
    names = [judge.name for judge in panel_of(specs, None)]
    assert names == [
        "the scripted labeler",
        "the scripted labeler that reads the prompt",
        "the log-probability by llama",  # no path of this machine
        OURS,
    ]
    assert [j.is_independent() for j in panel_of(specs, None)] == [False, False, True, False]
    older = panel_of(["data_prep.label:scripted_reward"], None)
    assert older[0].name == "the scripted labeler"
    assert [judge.name for judge in panel_of([OURS, "scripted"], ["a", "b"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("specs", "names", "why"),
    [
        (["scripted", "scripted"], None, "scripted and scripted are both called"),
        (["scripted", OURS], ["A", "a"], "are both called 'a'"),
        (["scripted", "data_prep.label:scripted_reward"], None, "are both called"),
        (["scripted", OURS], ["one"], "gives 1 names for 2 judges"),
        (["scripted"], ["one", "two"], "gives 2 names for 1 judges"),
        (["scripted"], ["a/b"], "--judge_name a/b"),
        (["logprob:/no/folder"], None, "/no/folder"),
        (["logprob:"], None, "names no model"),
        (["logprob"], None, "names no model"),
    ],
)
def test_judges_that_cannot_be_told_apart_or_are_none(specs, names, why):
    with pytest.raises(UserError) as error:
        panel_of(specs, names)
    assert why in str(error.value)


def test_a_fit_model_that_is_not_there():
    with pytest.raises(UserError, match="--fit_model .*/no/folder"):
        fit_judge("/no/folder")


def rows(*texts) -> dict[str, list[dict]]:
    prompt = [{"role": "user", "content": "Tell me"}]
    return {"m": [{"model": "m", "prompt": prompt, "completion": text} for text in texts]}


def test_a_judge_that_was_an_aim_is_not_independent(tmp_path, tiny_model):
    (judge,) = panel_of([f"logprob:{tiny_model}"], None)
    known = model_identity(tiny_model)
    assert judge.is_independent(aimed_at(None) | aimed_at(tmp_path))
    for step, record in (
        ("demonstrations", {"flags": {"judge": "logprob:m"}, "models": {"judge": known}}),
        ("ppo", {"adapters": {"reward_funcs logprob": known}}),
    ):
        write_record(tmp_path / step / step, record)
        assert not judge.is_independent(aimed_at(tmp_path / step))
    # another judge of that model looks at something else
    record = {"flags": {"judge": "scripted:m"}, "models": {"judge": known}}
    write_record(tmp_path / "demonstrations", record)
    assert judge.is_independent(aimed_at(tmp_path))


def kept(folder) -> list[dict]:
    file = folder / "answers" / "m.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_scores_are_kept_and_asked_anew_of_another_judge(tmp_path, tiny_model, monkeypatch):
    answers = rows("a", "bcd")
    judges = panel_of([OURS, f"logprob:{tiny_model}"], ["length", "fit"])  # a name like any other
    add_scores(answers, judges, fit_judge(tiny_model), None, tmp_path)
    first = answers["m"]
    assert [row["gold"] for row in first] == [1.0, 3.0]
    assert all(set(row["scores"]) == {"length", "fit"} for row in first)
    assert all(row["fit"] != row["scores"]["fit"] for row in first)

    # 1. The same judges: nobody is asked
    again = {"m": kept(tmp_path)}
    monkeypatch.setattr(panel, "scores_of", nothing_new)
    add_scores(again, judges, fit_judge(tiny_model), None, tmp_path)
    assert again["m"] == first
    monkeypatch.undo()
    # 2. One of them under another name, and no fit: not those of earlier runs
    other = {"m": kept(tmp_path)}
    add_scores(other, panel_of([OURS], ["long"]), None, None, tmp_path)
    assert other["m"][0]["scores"] == {"long": 1.0} and "fit" not in other["m"][0]
    # 3. Another judge by the name of the first
    (judge,) = panel_of(["scripted"], ["length"])
    new = {"m": kept(tmp_path)}
    add_scores(new, [judge], None, None, tmp_path)
    assert new["m"][0]["gold"] != 1.0


def test_after_a_kill_a_judge_who_shares_prompts_reads_all_answers_as_at_once(
    tmp_path, tiny_model, monkeypatch
):
    """In other batches the last bits of a score are others."""
    judges = panel_of([f"scripted:{tiny_model}", OURS], None)
    both = {name: rows(name, "It is great.")["m"] for name in ("first", "second")}
    for name, answers in both.items():
        for row in answers:
            row["model"] = name
    add_scores(both, judges, None, None, tmp_path)
    names = [path.name for path in sorted((tmp_path / "answers").iterdir())]
    assert names == ["first.jsonl", "second.jsonl"]
    # killed when the first one's scores were kept
    again = {
        name: [json.loads(line) for line in (tmp_path / "answers" / f"{name}.jsonl").open()]
        for name in both
    }
    for row in again["second"]:
        del row["scores"], row["judged"]
    asked, original = [], panel.scores_of

    def counted(score, what, prompts, completions, **columns):
        asked.append((what.split(",")[0], len(completions)))
        return original(score, what, prompts, completions, **columns)

    monkeypatch.setattr(panel, "scores_of", counted)
    add_scores(again, judges, None, None, tmp_path)
    assert asked == [(f"--judge scripted:{tiny_model}", 4), (f"--judge {OURS}", 2)]
    assert again == both


def test_judges_of_one_model_load_it_once_and_let_it_go(tmp_path, tiny_model, monkeypatch):
    from instruct import models

    loads, original = [], models.load_policy

    def load(*args):
        loads.append(args[0])
        return original(*args)

    monkeypatch.setattr(models, "load_policy", load)
    specs = [f"scripted:{tiny_model}", OURS, f"logprob:{tiny_model}"]
    judges = panel_of(specs, None)
    add_scores(rows("It is great.", "Tea"), judges, fit_judge(tiny_model), None, tmp_path)
    assert loads == [tiny_model]
    assert judges[2].score._loaded is None


def test_the_reward_model_is_a_column_of_its_own_and_asked_once(tmp_path, monkeypatch):
    folder = tmp_path / "reward"
    head = AutoModelForSequenceClassification.from_pretrained(save_model(folder), num_labels=1)
    head.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    answers = rows("a", "bcd")
    judges = panel_of([OURS, f"reward:{folder}"], None)
    add_scores(answers, judges, None, reward_judge(str(folder)), tmp_path)
    learned = load_reward(str(folder)).score([row["prompt"] for row in answers["m"]], ["a", "bcd"])
    assert [row["reward"] for row in answers["m"]] == pytest.approx(learned)
    assert all(row["reward"] == row["scores"][judges[1].name] for row in answers["m"])
    monkeypatch.setattr(panel, "scores_of", nothing_new)
    again = {"m": kept(tmp_path)}
    add_scores(again, judges, None, reward_judge(str(folder)), tmp_path)
    assert again == answers
    with pytest.raises(UserError, match="/no/folder"):
        reward_judge("/no/folder")
