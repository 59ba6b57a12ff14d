"""Preferences as people's files hold them -> rankings; what says no preference is told."""

import json
from random import Random

import pytest

from data_prep.formats.rankings import load_rankings
from data_prep.formats.reader import read_rows
from instruct.errors import UserError
from instruct.ranking import as_ranking, dense_ranks, equal_text_pairs


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def bot(text: str | None) -> dict:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
TALK = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a fruit.\n\nAssistant:"
TURNS = [user("Hi"), bot("Hello!"), user("Name a fruit.")]
FRUIT = {"prompt": [user("Name a fruit.")], "completions": ["Apple", "Avocado"], "ranks": [1, 2]}
AFTER = {**FRUIT, "prompt": TURNS}
KIND = {**FRUIT, "prompt": [SYSTEM, *FRUIT["prompt"]]}
SECOND = {**FRUIT, "ranks": [2, 1]}
TIE = {**FRUIT, "ranks": [1, 1]}
ASKED, GOOD, BAD = "Name a fruit.", "Apple", "Avocado"
BOTH = {"chosen": GOOD, "rejected": BAD}
MESSAGES = {"chosen": [bot(GOOD)], "rejected": [bot(BAD)]}
WHOLE = {name: [user(ASKED), *turns] for name, turns in MESSAGES.items()}
LONGER = {name: [*TURNS, *turns] for name, turns in MESSAGES.items()}
SHAREGPT = {name: {"from": "gpt", "value": text} for name, text in BOTH.items()}
TWO = {"output_1": GOOD, "output_2": BAD, "instruction": ASKED}
ARENA = {"conversation_a": WHOLE["chosen"], "conversation_b": WHOLE["rejected"]}
KAGGLE = {"prompt": '["Name a fruit."]', "response_a": '["Apple"]', "response_b": '["Avocado"]'}
SHP = {"history": ASKED, "human_ref_A": GOOD, "human_ref_B": BAD}
STEER = {"context": [user(ASKED)], "response1": GOOD, "response2": BAD}


def flags(a, b, tie) -> dict:
    return {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}


def scored(key: str, name: str, *values) -> list[dict]:
    return [{key: text, name: v} for text, v in zip((GOOD, BAD), values, strict=True)]


SHAPES = [
    # a better and a worse one
    ("pairs", {"prompt": ASKED, **BOTH}, FRUIT),
    ("pairs", {"prompt": [user(ASKED)], **MESSAGES}, FRUIT),
    ("pairs", {"prompt": [user(ASKED)], **{k: v[0] for k, v in MESSAGES.items()}}, FRUIT),
    ("pairs", {"conversations": [{"from": "human", "value": ASKED}], **SHAREGPT}, FRUIT),
    ("pairs", {"system": "Be kind.", "question": ASKED, **BOTH}, KIND),
    ("pairs", {"system": "", "input": ASKED, **BOTH}, FRUIT),
    ("pairs", {"instruction": "Name a", "input": "fruit.", **BOTH}, {"completions": [GOOD, BAD]}),
    ("pairs", {"query": ASKED, "chosen_response": GOOD, "rejected_response": BAD}, FRUIT),
    ("pairs", {"question": ASKED, "response_j": GOOD, "response_k": BAD}, FRUIT),
    (
        "pairs",
        {
            "input": {"messages": [user(ASKED)], "tools": []},
            "preferred_output": [bot(GOOD)],
            "non_preferred_output": [bot(BAD)],
        },
        FRUIT,
    ),
    ("UltraFeedback pairs", {"prompt": ASKED, **WHOLE}, FRUIT),
    ("UltraFeedback pairs", {"prompt": ASKED, **LONGER}, AFTER),
    ("UltraFeedback pairs", {"prompt": "Hi", **LONGER}, AFTER),
    ("UltraFeedback pairs", WHOLE, FRUIT),
    ("UltraFeedback pairs", {"prompt": [SYSTEM, user(ASKED)], **WHOLE}, KIND),
    ("UltraFeedback pairs", {"prompt": TURNS[:2], **WHOLE}, AFTER),
    ("HH pairs", {"chosen": f"{TALK} Apple", "rejected": f"{TALK} Avocado"}, AFTER),
    ("pairs", {"prompt": TALK, "chosen": " Apple", "rejected": " Avocado"}, AFTER),
    # two and who won
    ("arena", {**ARENA, "winner": "model_a"}, FRUIT),
    ("arena", {**ARENA, "winner": "model_b"}, SECOND),
    ("arena", {**ARENA, "winner": "tie"}, TIE),
    ("arena", {**ARENA, "winner": "tie (bothbad)", "turn": 1}, TIE),
    ("arena", {**ARENA, "winner": "model_a", "judge": "Ada"}, {**FRUIT, "labeler": "Ada"}),
    (
        "arena",  # MT-bench: the first of two turns is judged
        {
            "conversation_a": [*WHOLE["chosen"], user("More"), bot("Pear")],
            "conversation_b": [*WHOLE["rejected"], user("More"), bot("Fig")],
            "winner": "model_b",
            "turn": 1,
        },
        SECOND,
    ),
    ("Kaggle arena", {**KAGGLE, **flags(1, 0, 0)}, FRUIT),
    ("Kaggle arena", {**KAGGLE, **flags("0", "1", "0")}, SECOND),
    ("Kaggle arena", {**KAGGLE, **flags(0, 0, 1)}, TIE),
    (
        "Kaggle arena",
        {
            "prompt": json.dumps(["Hi", ASKED]),
            "response_a": json.dumps(["Hello!", GOOD]),
            "response_b": json.dumps(["Hello!", BAD]),
            **flags(1, 0, 0),
        },
        AFTER,
    ),
    ("AlpacaEval", {**TWO, "preference": 1}, FRUIT),
    ("AlpacaEval", {**TWO, "preference": 2.0}, SECOND),
    ("AlpacaEval", {**TWO, "preference": 1.87}, SECOND),
    ("AlpacaEval", {**TWO, "preference": 1.5}, TIE),
    ("AlpacaEval", {**TWO, "preference": 0}, TIE),
    ("AlpacaEval", {**TWO, "preference": "2"}, SECOND),
    ("SHP", {**SHP, "labels": 1, "score_A": 9, "score_B": 2}, FRUIT),
    ("SHP", {**SHP, "labels": 0, "score_A": 2, "score_B": 9}, SECOND),
    ("SHP", {**SHP, "score_A": 2, "score_B": 9}, SECOND),
    ("HelpSteer preferences", {**STEER, "overall_preference": -2}, FRUIT),
    ("HelpSteer preferences", {**STEER, "overall_preference": 3}, SECOND),
    ("HelpSteer preferences", {**STEER, "overall_preference": 0}, TIE),
    (
        "PKU-SafeRLHF",
        {"prompt": ASKED, "response_0": GOOD, "response_1": BAD, "better_response_id": 1},
        SECOND,
    ),
    (
        "WebGPT comparisons",
        {
            "question": {"full_text": ASKED, "id": "7"},
            "answer_0": GOOD,
            "answer_1": BAD,
            "score_0": -1.0,
            "score_1": 1.0,
        },
        SECOND,
    ),
    (
        "two answers and a winner",
        {"prompt": ASKED, "response_a": GOOD, "response_b": BAD, "winner": "B"},
        SECOND,
    ),
    # K with a rank or a score each
    (
        "UltraFeedback",
        {"instruction": ASKED, "completions": scored("response", "overall_score", 7.5, 3.0)},
        FRUIT,
    ),
    ("Nectar", {"prompt": TALK, "answers": scored("answer", "rank", 2.0, 5.0)}, AFTER),
    (
        "Stack Exchange answers",
        {"question": ASKED, "answers": scored("text", "pm_score", 0, 4)},
        SECOND,
    ),
    ("answers and numbers", {"prompt": ASKED, "responses": [GOOD, BAD], "rank": [1, 0]}, SECOND),
    ("answers and numbers", {"prompt": ASKED, "responses": [GOOD, BAD], "scores": [1, 0]}, FRUIT),
    (
        "answers and numbers",
        {"prompt": ASKED, "completions": [GOOD, BAD], "scores": [0.25, 0.25]},
        TIE,
    ),
    # ours: 0-based, whole floats, gaps
    ("rankings", {"prompt": ASKED, "completions": [GOOD, BAD], "ranks": [0, 1]}, FRUIT),
    (
        "rankings",
        {"prompt": ASKED, "completions": json.dumps([GOOD, BAD]), "ranks": "[1, 2]"},
        FRUIT,
    ),
    ("rankings", {"prompt": ASKED, "completions": [GOOD, BAD], "ranks": [9.0, 4.0]}, SECOND),
    (
        "rankings",
        {"prompt": ASKED, "completions": [[bot(GOOD)], [bot(BAD)]], "ranks": [1, 2]},
        FRUIT,
    ),
]


@pytest.fixture
def write(tmp_path):
    def write(*rows: dict) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(("name", "row", "wanted"), SHAPES)
def test_preferences_of_every_shape_are_rankings(write, name, row, wanted):
    reading = read_rows(write({**row, "id": 7}), "rankings")
    (_, found), *others = reading.rows
    assert reading.format.name == name and not others and reading.used == reading.total == 1
    assert {key: found[key] for key in wanted} == wanted and found["id"] == 7


MISFITS = [
    ({**ARENA, "winner": None}, "'winner' is missing"),
    ({**ARENA, "winner": "model_c"}, "model_c"),
    ({**TWO, "preference": float("nan")}, "nan"),
    ({**TWO, "preference": None}, "'preference' is missing"),
    ({**TWO, "output_1": True, "preference": 1}, "'output_1' is true or false"),
    ({**KAGGLE, **flags(1, 1, 0)}, "one must be 1"),
    ({**KAGGLE, "response_a": "[null]", **flags(1, 0, 0)}, "'response_a'"),
    ({**KAGGLE, "prompt": '["q \\ud83d"]', **flags(1, 0, 0)}, "half a character"),
    ({**SHP, "labels": float("nan"), "score_A": 1, "score_B": 2}, "'labels' is nan"),
    ({**STEER, "overall_preference": None}, "'overall_preference' is missing"),
    (
        {"instruction": ASKED, "completions": scored("response", "overall_score", 1, None)},
        "'overall_score' of answer 2 is null",
    ),
    (
        {"instruction": ASKED, "completions": scored("response", "overall_score", 1, 2)[:1]},
        "1 answer; a ranking needs two",
    ),
    ({"prompt": ASKED, "responses": [GOOD, BAD], "scores": [1.0, float("nan")]}, "nan"),
    ({"prompt": ASKED, "responses": [GOOD, BAD], "scores": [1.0]}, "1 values"),
    ({"prompt": "Other", **WHOLE}, "not among the turns"),
    (
        {"chosen": [*TURNS, bot(GOOD)], "rejected": [TURNS[0], bot("No"), TURNS[2], bot(BAD)]},
        "part at turn 2",
    ),
    ({"chosen": f"{TALK} Apple", "rejected": None}, "'rejected'"),
]


@pytest.mark.parametrize(("bad", "why"), MISFITS)
def test_a_row_that_says_no_preference_is_told_and_counted(write, capsys, bad, why):
    good = next(row for _, row, _ in SHAPES if bad.keys() <= row.keys() | {"prompt"})
    path = write({**dict.fromkeys(bad), **good}, bad)
    reading = read_rows(path, "rankings")
    assert (reading.total, reading.used, len(reading.rows)) == (2, 1, 1)
    said = capsys.readouterr().out
    assert f"{path}, line 2: " in said and why in said and "1 of 2 rows" in said
    assert sum(reading.misfits.values()) == 1


def test_pandalm_has_a_ranking_by_each_of_three_people(write):
    row = {"instruction": "Name a fruit.", "input": "", "response1": GOOD, "response2": BAD}
    reading = read_rows(
        write({**row, "annotator1": 1, "annotator2": 0, "annotator3": 2}), "rankings"
    )
    assert [(r["ranks"], r["labeler"]) for _, r in reading.rows] == [
        ([1, 2], "annotator1"),
        ([1, 1], "annotator2"),
        ([2, 1], "annotator3"),
    ]
    assert reading.used == reading.total == 1


def test_an_answer_a_row_is_joined_by_its_prompt(write):
    rows = [
        {"prompt": ASKED, "response": GOOD, "helpfulness": 4, "verbosity": 1},
        {"prompt": "Alone", "response": GOOD, "helpfulness": 1, "verbosity": 1},
        {"prompt": ASKED, "response": BAD, "helpfulness": 2, "verbosity": 9},
    ]
    reading = read_rows(write(*rows), "rankings")
    ((_, found),) = reading.rows
    assert found["ranks"] == [1, 2] and found["completions"] == [GOOD, BAD]
    assert (reading.total, reading.used) == (3, 2) and "the only answer" in str(reading.misfits)


def message(number: int, parent: int | None, role: str, text: str, rank: int | None = None) -> dict:
    return {
        "message_id": str(number),
        "parent_id": parent and str(parent),
        "message_tree_id": "1",
        "user_id": f"user {number}",
        "role": role,
        "text": text,
        "rank": rank,
        "lang": "en",
    }


FLAT = [
    message(1, None, "prompter", "Hi"),
    message(2, 1, "assistant", "Hello!", 0),
    message(3, 1, "assistant", "What?", 1),
    message(4, 2, "prompter", ASKED),
    message(5, 4, "assistant", BAD, 2),
    message(6, 4, "assistant", GOOD, 0),
    message(7, 3, "prompter", "Pardon?"),
    message(8, 9, "assistant", "Lost", 0),
    message(10, 1, "assistant", "Not ranked"),
]


def replies(parent: str | None) -> list[dict]:
    return [{**m, "replies": replies(m["message_id"])} for m in FLAT if m["parent_id"] == parent]


def test_openassistant_messages_and_trees_are_the_same_rankings_and_demonstrations(write):
    wanted = [
        ([user("Hi")], ["Hello!", "What?"], [1, 2]),
        (TURNS, [BAD, GOOD], [2, 1]),
    ]
    for rows in (FLAT, [{"message_tree_id": "1", "prompt": replies(None)[0]}]):
        flat, path = rows is FLAT, write(*rows)
        reading = read_rows(path, "rankings")
        assert [(r["prompt"], r["completions"], r["ranks"]) for _, r in reading.rows] == wanted
        # one side of a split for all of a tree
        assert {(r["user_id"], r["prompt_id"]) for _, r in reading.rows} == {("user 1", "1")}
        assert (reading.total, reading.used) == ((9, 6) if flat else (1, 1))
        shown = read_rows(path, "demonstrations")
        assert [(r["prompt"], r["completion"]) for _, r in shown.rows] == [
            ([user("Hi")], [bot("Hello!")]),
            (TURNS, [bot(GOOD)]),
        ]
    assert "its parent is not in the file" in str(read_rows(write(*FLAT), "rankings").misfits)


def test_a_row_of_a_thread_that_fits_and_of_one_that_does_not_is_used(write):
    odd = [{**m, "rank": 0.5} if m["message_id"] == "6" else m for m in FLAT]
    reading = read_rows(write(*odd), "rankings")
    # 1, 2 and 3 are a ranking; what of 4, 5 and 6 has no other is told
    assert [len(r["prompt"]) for _, r in reading.rows] == [1]
    assert reading.used == 3 and sum(reading.misfits.values()) == 6


def test_ranks_have_no_gaps_and_equal_texts_share_one():
    assert dense_ranks([7, 0, 7, 2.0]) == [3, 1, 3, 2]
    found = as_ranking({"prompt": "p", "completions": ["a", "b", "a"], "ranks": [1, 2, 2]})
    assert found["ranks"] == [1, 2, 1] and equal_text_pairs(found["completions"]) == 1
    # before and behind another: as good as it
    found = as_ranking({"prompt": "p", "completions": ["a", "b", "a"], "ranks": [1, 2, 3]})
    assert found["ranks"] == [1, 1, 1]
    assert as_ranking({"prompt": "p", "chosen": "a", "rejected": "a"})["ranks"] == [1, 1]


def test_a_prompt_of_another_column_is_said():
    row = {"system": "Be kind.", "question": ASKED, "chosen": "The apple", "rejected": "The egg"}
    found = as_ranking(row)
    assert found["prompt"] == KIND["prompt"] and "no `prompt`; question" in found["read_as"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"conversations": [], **SHAREGPT}, "no prompt"),
        ({"prompt": ASKED, "completions": [GOOD, BAD], "ranks": [1.0, float("nan")]}, "nan"),
        ({"prompt": ASKED, "completions": [GOOD, BAD], "ranks": [-1, 1]}, "whole numbers"),
        ({"prompt": ASKED, "completions": [GOOD, BAD], "ranks": [True, 2]}, "whole numbers"),
        ({"prompt": ASKED, "chosen": [bot(None)], "rejected": [bot("y")]}, "'chosen'"),
        ({"prompt": ASKED, "chosen": [bot("a"), bot("b")], "rejected": [bot("y")]}, "'chosen'"),
    ],
)
def test_what_is_no_ranking_is_told_with_its_place(row, why):
    with pytest.raises(UserError, match=f"row 7: .*{why}"):
        as_ranking(row, "row 7")


def test_a_training_run_stops_at_a_row_of_ours_that_is_no_ranking(write):
    path = write({"prompt": ASKED, **BOTH}, {"prompt": ASKED, "chosen": None, "rejected": BAD})
    with pytest.raises(UserError, match="line 2: no 'chosen'"):
        load_rankings(path)
    assert read_rows(path, "rankings").used == 1


def test_columns_of_any_name_and_a_format_by_name(write):
    path = write({"ask": ASKED, "good": GOOD, "bad": BAD})
    with pytest.raises(UserError, match="no known shape of rankings"):
        load_rankings(path)
    named = ["prompt=ask", "chosen=good", "rejected=bad"]
    assert load_rankings(path, columns=named)[0] == FRUIT
    assert load_rankings(path, columns=named, format="ultrafeedback-pairs")[0] == FRUIT


ODD = (None, "", " ", 0, -1, 2.5, float("nan"), float("inf"), True, [], {}, [None], [[]], [{}])
MORE_ODD = (
    "x",
    "[",
    "\ud800",
    10**30,
    10**400,
    [1, "a"],
    {"role": "user"},
    [{"role": "user"}],
    ["a", 1],
)


def half_right(random: Random, value):
    """A value with one thing in it replaced or gone."""
    if random.random() < 0.3 or not value or not isinstance(value, list | dict):
        return random.choice(ODD + MORE_ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    at, copy = random.choice(keys), value.copy()
    if random.random() < 0.2:
        del copy[at]
    else:
        copy[at] = half_right(random, copy[at])
    return copy


@pytest.mark.parametrize("seed", range(6))
def test_shapes_half_right_are_read_or_told(write, seed):
    random, rows_read = Random(seed), 0
    shapes = [(name, row) for name, row, _ in SHAPES]
    shapes += [("OpenAssistant trees", {"prompt": replies(None)[0]})] * 3
    for name, row in shapes:
        rows = [half_right(random, row) for _ in range(6)]
        rows = [row if isinstance(row, dict) else {} for row in rows] + [row]
        reading = read_rows(write(*rows), "rankings", format=name)
        assert reading.total == 7 == reading.used + sum(reading.misfits.values())
        for _, found in reading.rows:
            assert len(found["completions"]) == len(found["ranks"]) and found["prompt"]
            assert all(isinstance(text, str) for text in found["completions"])
        # they are a table, too
        rows_read += len(reading.dataset())
    flat = [half_right(random, message) for message in FLAT]
    whole = [{**m, "message_id": f"a{m['message_id']}"} for m in FLAT[:3]]
    whole = [{**m, "parent_id": m["parent_id"] and "a1"} for m in whole]
    reading = read_rows(write(*(r for r in flat if isinstance(r, dict)), *whole), "rankings")
    assert reading.total == reading.used + sum(reading.misfits.values())
    assert rows_read > len(shapes)
