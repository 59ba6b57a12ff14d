"""Rows of files become items: what can be labeled, once, with what it takes to export it again."""

import pytest
from conftest import write_jsonl
from labeling_tools import item

from data_prep.labeling.items import Item, read_items, read_screening, shown
from instruct.errors import UserError

SAMPLE = {
    "prompt_id": "p1",
    "prompt": [{"role": "user", "content": "Hi"}],
    "completions": ["a", "b"],
    "model": ["m1", "m2"],
    "sampling": [{"temperature": 1.0}, None],
}


def answered(model: str, number: int = 1, text: str = "Yes.", **more) -> dict:
    return {
        "model": model,
        "prompt_id": f"p{number}",
        "user_id": f"u{number}",
        "prompt": [{"role": "user", "content": f"Is it {number}?"}],
        "completion": text,
        "ended": True,
        "tokens": 2,
        "completion_ids": [1, 2],
        "scripted": 0.5,
        **more,
    }


def test_samples_are_items_with_all_that_rides_along(tmp_path):
    path = write_jsonl(tmp_path / "samples.jsonl", [SAMPLE])
    [found] = read_items("rankings", path)
    assert found.row == SAMPLE and not found.is_screening
    assert shown(found.row) == {k: SAMPLE[k] for k in ("prompt_id", "prompt", "completions")}


def test_an_item_stays_the_same_when_its_file_grows(tmp_path):
    one = write_jsonl(tmp_path / "one.jsonl", [SAMPLE])
    tool = {"role": "tool", "content": "5", "tool_call_id": "1"}
    asked = {"role": "user", "content": "Hi", "name": "Ann"}
    other = {**SAMPLE, "prompt_id": "p2", "prompt": [asked, tool], "score": [1, 2], "tools": "[]"}
    more = write_jsonl(tmp_path / "more.jsonl", [other, {**SAMPLE, "model": ["x", "y"]}])
    [before], [_, after] = read_items("rankings", one), read_items("rankings", more)
    assert before.key == after.key
    assert Item({**SAMPLE, "completions": ["a", "c"]}).key != before.key
    assert Item({**SAMPLE, "prompt_id": "p9"}).key != before.key


def test_equal_rows_are_one_item_and_it_is_said(tmp_path, capsys):
    path = write_jsonl(tmp_path / "samples.jsonl", [SAMPLE, SAMPLE, {**SAMPLE, "prompt_id": "2"}])
    assert len(read_items("rankings", path)) == 2
    assert "1 rows are the same as others" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 1, 10])
def test_what_cannot_be_ranked_is_told_and_left_out(tmp_path, capsys, count):
    unfit = {**SAMPLE, "prompt_id": "2", "completions": ["x"] * count}
    path = write_jsonl(tmp_path / "samples.jsonl", [SAMPLE, unfit])
    assert [found.row["prompt_id"] for found in read_items("rankings", path)] == ["p1"]
    assert f"left out: 'Hi' has {count} output" in capsys.readouterr().out
    with pytest.raises(UserError, match="no row has from 2 to 9 outputs"):
        read_items("rankings", write_jsonl(tmp_path / "unfit.jsonl", [unfit]))


def test_columns_of_others_are_read_by_their_names(tmp_path):
    path = write_jsonl(tmp_path / "samples.jsonl", [{"question": "Hi", "outputs": ["a", "b"]}])
    [found] = read_items("rankings", path, columns=["prompt=question", "completions=outputs"])
    assert found.row["prompt"] == [{"role": "user", "content": "Hi"}]


################
# Screening
################


def test_screening_items_hold_what_the_owner_said_and_are_the_same_items(tmp_path):
    ranking = {
        **SAMPLE, "ranks": [3, 1], "quality": [2, 6], "flags": [["opinion"], []],
        "labeler": "owner", "timestamp": "2026-01-01T00:00:00+00:00", "seconds": 3.0,
    }  # fmt: skip
    path = write_jsonl(tmp_path / "rankings.jsonl", [ranking])
    [found] = read_screening(path)
    assert found.owner == {"ranks": [2, 1], "flags": [["opinion"], []], "questions": None}
    assert found.is_screening
    assert found.row == SAMPLE and found.key == Item(SAMPLE).key


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"completions": ["a"], "ranks": [1]}, "row 1: 'Hi' has 1 output; 2 to 9"),
        ({"flags": [["opinion"]]}, "row 1: 'flags' must be a list of questions for each"),
        ({"ranks": [1]}, "--screening .*1 ranks for 2 completions"),
        ({"ranks": "first"}, "--screening .*r.jsonl, line 1: 'ranks' is text"),
        ({"ranks": [1, 1]}, "every ranking is one tie"),
        ({"quality": "good"}, "row 1: 'quality' must be a number from 1 to 7, or null, for each"),
        ({"quality": [3]}, "row 1: 'quality' must be"),
        ({"quality": [3, 70]}, "row 1: 'quality' must be"),
        ({"flags": [[5], [6]]}, "row 1: 'flags' must be a list of questions for each"),
        ({"flags": [["violent content"], []]}, "row 1: .*violent content: no such question"),
        ({"questions": "all"}, "row 1: 'questions' must be a list of those that were asked"),
        ({"questions": ["rude"]}, "row 1: .*rude: no such question"),
    ],
)
def test_screening_that_is_none_is_refused(tmp_path, changed, told):
    path = write_jsonl(tmp_path / "r.jsonl", [{**SAMPLE, "ranks": [1, 2], **changed}])
    with pytest.raises(UserError, match=told):
        read_screening(path)


def test_a_tie_with_flags_can_be_disagreed_with(tmp_path):
    tied = {**SAMPLE, "ranks": [1, 1], "flags": [["opinion"], []], "quality": [None, 5]}
    [found] = read_screening(write_jsonl(tmp_path / "r.jsonl", [tied]))
    assert found.owner["ranks"] == [1, 1]


def test_samples_that_somebody_has_ranked_are_told(tmp_path, capsys):
    ranked = {**SAMPLE, "prompt_id": "2", "ranks": [1, 2], "labeler": "scripted"}
    path = write_jsonl(tmp_path / "s.jsonl", [SAMPLE, ranked])
    assert len(read_items("rankings", path)) == 2
    said = capsys.readouterr().out
    assert f"{path}: 1 of 2 rows hold ranks already (by scripted): they are ranked anew" in said
    read_items("rankings", write_jsonl(tmp_path / "t.jsonl", [SAMPLE]))
    assert "ranks" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["rankings", "judgements", "demonstrations"])
def test_a_kind_that_does_not_fit_the_rows_is_told_with_the_one_that_does(tmp_path, kind):
    files = {
        "rankings": [SAMPLE],
        "judgements": [answered("sft"), answered("ppo")],
        "demonstrations": [{"id": "1", "prompt": "Hi"}],
    }
    for fits, rows in files.items():
        path = write_jsonl(tmp_path / f"{fits}.jsonl", rows)
        # the prompts of any rows can be answered
        if kind in (fits, "demonstrations"):
            assert read_items(kind, path)
            continue
        with pytest.raises(UserError, match=f"--kind {kind} takes .* give --kind {fits}, or"):
            read_items(kind, path)


################
# Answers of models
################


def test_answers_of_models_are_compared_prompt_by_prompt(tmp_path):
    rows = [answered(model, n, f"{model} {n}") for model in ("sft", "ppo") for n in (1, 2)]
    found = read_items("judgements", write_jsonl(tmp_path / "answers.jsonl", rows))
    assert found[1].row == {
        "prompt_id": "p2",
        "user_id": "u2",
        "prompt": [{"role": "user", "content": "Is it 2?"}],
        "models": ["sft", "ppo"],
        "completions": ["sft 2", "ppo 2"],
    }
    assert "models" not in shown(found[1].row) and len(found) == 2


def test_answers_in_any_order_are_shown_by_the_same_order_of_models(tmp_path):
    rows = [
        answered("sft", 1),
        answered("ppo", 1),
        answered("ppo", 2, "p"),
        answered("sft", 2, "s"),
    ]
    found = read_items("judgements", write_jsonl(tmp_path / "answers.jsonl", rows))
    assert found[1].row["models"] == ["sft", "ppo"] and found[1].row["completions"] == ["s", "p"]


def test_a_prompt_that_not_all_models_answer_is_left_out_and_told(tmp_path, capsys):
    rows = [answered("sft", 1), answered("ppo", 1), answered("sft", 2)]
    assert len(read_items("judgements", write_jsonl(tmp_path / "answers.jsonl", rows))) == 1
    assert "1 of 2 prompts are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, told",
    [
        ([answered("sft")], "answers of sft alone; two models are compared"),
        ([answered("sft"), answered("sft")], "line 2: sft has answered prompt p1 before"),
        ([answered("sft"), answered("ppo", prompt="No?")], "line 2: another prompt than before"),
        ([answered("sft", 1), answered("ppo", 2)], "no prompt is answered by all of sft, ppo"),
        ([answered(None), answered("ppo")], "line 1: no 'model'"),
        ([answered("sft"), answered("ppo", text=5)], "line 2: 'completions' number 1"),
        ([SAMPLE], "holds samples .* give --kind rankings"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(tmp_path, rows, told):
    with pytest.raises(UserError, match=told):
        read_items("judgements", write_jsonl(tmp_path / "answers.jsonl", rows))


def test_answers_have_one_format(tmp_path):
    path = write_jsonl(tmp_path / "answers.jsonl", [answered("sft"), answered("ppo")])
    with pytest.raises(UserError, match="--format arena"):
        read_items("judgements", path, format="arena")
    renamed = [{**row, "text": row.pop("completion")} for row in map(answered, ("sft", "ppo"))]
    path = write_jsonl(tmp_path / "renamed.jsonl", renamed)
    [found] = read_items("judgements", path, columns=["completion=text"])
    assert found.row["completions"] == ["Yes.", "Yes."]


################
# Prompts
################


def test_prompts_to_answer_keep_their_id(tmp_path):
    rows = [{"id": "7", "prompt": "Hi", "user_id": "u", "request_form": "direct"}, {"prompt": "Ho"}]
    first, second = read_items("demonstrations", write_jsonl(tmp_path / "p.jsonl", rows))
    assert first.row["prompt_id"] == "7" and first.row["request_form"] == "direct"
    assert first.row["prompt"] == [{"role": "user", "content": "Hi"}] and first.outputs == 0
    assert "prompt_id" not in second.row and "user_id" not in shown(first.row)


def test_a_source_without_rows_is_told(tmp_path):
    for kind in ("rankings", "judgements", "demonstrations"):
        (tmp_path / "empty.jsonl").write_text("")
        with pytest.raises(UserError):
            read_items(kind, tmp_path / "empty.jsonl")
        with pytest.raises(UserError, match="no such file"):
            read_items(kind, tmp_path / "missing.jsonl")


def test_tools_of_a_row_make_another_item():
    assert item(1).key != item(1, tools='[{"name": "search"}]').key
    assert item(1).key == item(1, score=5).key
