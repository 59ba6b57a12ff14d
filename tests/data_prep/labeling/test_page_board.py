"""What the page's server tells a browser and takes from it, without a browser."""

import json

import pytest
from labeling_page_tools import HOSTILE, answers_of_models, make_store, prompts, samples

from data_prep.labeling.page import board as board_module
from data_prep.labeling.page import owner as owner_module
from data_prep.labeling.page.board import Board
from data_prep.labeling.page.owner import MOST_SKIPS, MOST_TURNS, OwnersView
from data_prep.labeling.page.shown import as_row, as_shown, shown
from data_prep.labeling.store import Item
from instruct.errors import UserError


@pytest.fixture
def board(tmp_path):
    return Board(*make_store(tmp_path / "l.sqlite", samples(3, 4)), instructions="# Read")


def ranking(best_first: list[int], count: int) -> dict:
    """The form of a ranking: which places stand best first."""
    ranks = [best_first.index(place) + 1 for place in range(count)]
    return {"ranks": ranks, "quality": [4] * count, "flags": [[] for _ in range(count)]}


def test_places_as_shown_and_the_order_of_the_row_turn_into_each_other():
    order = (2, 0, 3, 1)
    assert as_shown(list("abcd"), order) == ["c", "a", "d", "b"]
    assert as_row(["c", "a", "d", "b"], order, "ranks") == list("abcd")
    with pytest.raises(UserError, match="ranks: must be a list of 4"):
        as_row([1, 2], order, "ranks")


def test_an_answer_by_places_is_stored_in_the_order_of_the_row(board):
    for _ in range(3):
        task = board.state("ada")["task"]
        # each output says its number in the row: the best is number 3, then 2, 1, 0
        numbers = [int(text[0]) for text in task["outputs"]]
        form = {
            "ranks": [4 - n for n in numbers],
            "quality": [n + 1 for n in numbers],
            "flags": [["opinion"] if n == 1 else [] for n in numbers],
        }
        board.save("ada", {"item": task["item"], "answer": form, "seconds": 0.0})
    stored = [given["answer"] for given in board.store.answers()]
    wanted = {
        "ranks": [4, 3, 2, 1],
        "quality": [1, 2, 3, 4],
        "flags": [[], ["opinion"], [], []],
    }
    assert stored == [wanted] * 3
    orders = {tuple(given["order"]) for given in board.store.answers()}
    assert len(orders) > 1, "the order is drawn for each item"


def test_a_browser_is_not_told_who_wrote_what(tmp_path):
    for name, items, kind in [
        ("r", samples(2, 4), "rankings"),
        ("j", answers_of_models(2), "judgements"),
    ]:
        board = Board(*make_store(tmp_path / name, items, kind=kind), instructions="")
        state = board.state("ada")
        assert "SECRET" not in json.dumps(state)
        assert set(state["task"]) == {"item", "prompt", "outputs", "previous", "skipped"}


def test_a_browser_is_told_whose_and_of_which_database_its_drafts_are(board):
    state = board.state("ada")
    assert (state["labeler"], state["database"]) == ("ada", board.store.database)


def test_undo_shows_the_earlier_answer_by_places(board):
    task = board.state("ada")["task"]
    form = ranking([2, 0, 3, 1], 4)
    board.save("ada", {"item": task["item"], "answer": form})
    again = board.undo("ada", {})["task"]
    assert again["item"] == task["item"] and again["outputs"] == task["outputs"]
    assert again["previous"] == form
    with pytest.raises(UserError, match="no earlier item"):
        board.undo("ada", {})


def test_what_was_saved_before_a_restart_is_no_second_answer(board):
    task = board.state("ada")["task"]
    form = {"item": task["item"], "answer": ranking([3, 2, 1, 0], 4), "seconds": 5}
    board.save("ada", form)
    # the server died before it could say so; the page sends the form once more
    anew = Board(board.store, board.project, "")
    assert anew.save("ada", form)["saved"] == task["item"]
    assert len(list(board.store.history())) == 1


def test_after_a_restart_each_item_of_ones_own_can_be_saved(board):
    first = board.state("ada")["task"]
    form = {"item": first["item"], "answer": ranking([3, 2, 1, 0], 4)}
    second = board.save("ada", form)["task"]
    # in another tab
    board.undo("ada", {})
    anew = Board(board.store, board.project, "")
    anew.save("ada", {"item": second["item"], "answer": ranking([0, 1, 2, 3], 4)})
    assert {given["item"] for given in board.store.answers()} == {first["item"], second["item"]}


def test_another_labelers_item_is_refused(board):
    hers = board.state("ada")["task"]["item"]
    form = {"item": hers, "answer": ranking([0, 1, 2, 3], 4)}
    for act, sent in [("save", form), ("skip", {"item": hers, "reason": "no"})]:
        with pytest.raises(UserError, match="none of yours"):
            getattr(board, act)("bob", sent)
    assert not list(board.store.history())


@pytest.mark.parametrize("of_page", [{"labeler": "bob"}, {"database": "another"}])
def test_a_form_of_a_page_opened_before_is_refused(board, of_page):
    # another tab logged in under another name, or the server has another database by now
    item = board.state("ada")["task"]["item"]
    form = {"item": item, "answer": ranking([0, 1, 2, 3], 4), "reason": "no", **of_page}
    for act in (board.save, board.skip, board.undo):
        with pytest.raises(UserError, match="load the page again"):
            act("ada", form)
    assert not list(board.store.history())


GOOD = {"ranks": [1, 2, 3, 4], "quality": [1, 2, 3, 4], "flags": [[], [], [], []]}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "1",
        {},
        {**GOOD, "ranks": [1, 2, 3]},
        {**GOOD, "ranks": [1, 2, 3, 5]},
        {**GOOD, "ranks": [True, 2, 3, 4]},
        {**GOOD, "ranks": ["1", "2", "3", "4"]},
        {**GOOD, "ranks": {"0": 1}},
        {**GOOD, "quality": [8, 1, 1, 1]},
        {**GOOD, "quality": [None] * 4},
        {**GOOD, "quality": [1, 2, None, 4]},
        {**GOOD, "flags": [["no question"], [], [], []]},
        {**GOOD, "flags": [[["x"]], [], [], []]},
        {**GOOD, "flags": "abcd"},
    ],
)
def test_a_forged_answer_is_refused_in_a_sentence(board, answer):
    item = board.state("ada")["task"]["item"]
    with pytest.raises(UserError) as refused:
        board.save("ada", {"item": item, "answer": answer})
    assert len(str(refused.value)) < 400
    assert not list(board.store.history())


@pytest.mark.parametrize("form", [None, [], {}, {"item": "1"}, {"item": True}, {"item": 1.0}])
def test_a_form_without_an_item_is_refused(board, form):
    with pytest.raises(UserError, match="names its item"):
        board.save("ada", form)


@pytest.mark.parametrize("told", [-1, 1e9, "5", None, float("nan"), float("inf"), True])
def test_seconds_are_at_most_what_has_passed(board, told):
    item = board.state("ada")["task"]["item"]
    board.save("ada", {"item": item, "answer": ranking([0, 1, 2, 3], 4), "seconds": told})
    assert 0 <= next(board.store.answers())["seconds"] < 60


def test_seconds_before_a_reload_count_and_those_before_a_restart_are_not_made_up(
    board, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: now[0])
    item = board.state("ada")["task"]["item"]
    now[0] += 600
    assert board.state("ada")["task"]["item"] == item
    now[0] += 5
    form = {"answer": ranking([0, 1, 2, 3], 4)}
    board.save("ada", {**form, "item": item, "seconds": 605})
    anew = Board(board.store, board.project, "")
    second = board.state("ada")["task"]["item"]
    anew.save("ada", {**form, "item": second})
    assert [given["seconds"] for given in board.store.answers()] == [605.0, 0.0]


def test_hostile_text_is_told_as_what_it_is():
    assert shown("a\0b \u202egnp.exe\u202c \ud800 \r\nc") == (
        "a\\x00b \\u202egnp.exe\\u202c \\ud800 \nc"
    )
    # markup stays text: the page makes text nodes of it
    assert shown(HOSTILE[0]) == HOSTILE[0]


def test_a_call_of_a_tool_is_shown_though_its_message_has_no_words(tmp_path):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Genf"}}}
    prompt = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "no"},
    ]
    items = [Item({"prompt": prompt, "completions": ["No.", "Yes."]})]
    board = Board(*make_store(tmp_path / "l.sqlite", items), instructions="")
    asked, called, told = board.state("ada")["task"]["prompt"]
    assert json.loads(called["content"]) == [call]
    assert (asked["content"], told["content"]) == ("Rain?", "no")


def test_a_prompt_of_the_log_is_stored_as_it_is_in_the_log(tmp_path):
    prompt = [{"role": "user", "content": "nul \0 and \u202e"}]
    items = [Item({"prompt_id": "p", "prompt": prompt})]
    board = Board(*make_store(tmp_path / "w", items, kind="demonstrations"), instructions="")
    task = board.state("ada")["task"]
    assert task["prompt"][0]["content"] == "nul \\x00 and \\u202e"
    answer = {"prompt": None, "completion": "An answer.", "request_form": "plain"}
    board.save("ada", {"item": task["item"], "answer": answer})
    assert next(board.store.answers())["answer"]["prompt"] == prompt


def test_use_cases_that_are_short_come_with_the_prompts(tmp_path):
    board = Board(*make_store(tmp_path / "w", prompts(2), kind="demonstrations"), instructions="")
    short = {row["use_case"]: row for row in board.state("ada")["short"]}
    assert short["generation"] == {
        "use_case": "generation",
        "n": 0,
        "write": ["user-based", "few-shot", "plain"],
    }


def test_what_was_written_for_a_use_case_counts_for_it(tmp_path):
    board = Board(*make_store(tmp_path / "w", prompts(1), kind="demonstrations"), instructions="")
    item = board.state("ada")["task"]["item"]
    answer = {"prompt": "Hm.", "completion": "Yes.", "request_form": "user_based"}
    board.save("ada", {"item": item, "answer": {**answer, "use_case": "closed qa"}})
    short = Board(board.store, board.project, "").state("bob")["short"]
    counted = {row["use_case"]: row["n"] for row in short}
    assert counted["closed_qa"] == 1


def test_the_owners_export_counts_what_screening_leaves_out(tmp_path):
    row = samples(1, 2)[0].row
    screened = Item({**row, "prompt_id": "s"}, {"ranks": [1, 2], "flags": None})
    store, project = make_store(tmp_path / "l.sqlite", [Item(row), screened], ranking_only=True)
    view = OwnersView(store, project)
    store.answer("ada", store.take("ada").item, {"ranks": [1, 2]}, 1.0)
    with pytest.raises(UserError, match="no answer yet but 1 to screening items"):
        view.export()
    store.answer("ada", store.take("ada").item, {"ranks": [2, 1]}, 1.0)
    found = view.export()
    assert (found["n"], found["left_out"]) == (1, 1)
    [line] = found["rows"].splitlines()
    assert json.loads(line)["prompt_id"] == row["prompt_id"]


def test_the_owner_gets_the_beginning_of_long_texts(tmp_path):
    said = [{"role": "user", "content": "x"}] * (MOST_TURNS + 2)
    said.append({"role": "user", "content": "x" * 2**20})
    rows = [Item({"prompt_id": f"p{n}", "prompt": said, "completions": ["\0" * 2**20, "b"]})
            for n in range(3)]  # fmt: skip
    store, project = make_store(tmp_path / "l.sqlite", rows, ranking_only=True, overlap=1.0)
    for name, ranks in [("ada", [1, 2]), ("bob", [2, 1])]:
        for _ in rows:
            store.answer(name, store.take(name).item, {"ranks": ranks}, 1.0)
    found = OwnersView(store, project).overview()
    assert len(json.dumps(found)) < 1_000_000
    disagreements = found["agreement"]["disagreements"]
    assert len(disagreements) == 3
    one = disagreements[0]
    assert one["outputs"] == [
        {"text": "\\x00" * 4000, "note": "The first 4,000 of 1,048,576 characters"},
        {"text": "b", "note": ""},
    ]
    assert len(one["prompt"]) == MOST_TURNS
    assert one["prompt"][-1] == {"role": "user", "content": "x" * 4000}
    told = "3 earlier messages are left out; The first 4,000 characters of each message"
    assert one["prompt_note"] == told


def test_the_owner_gets_the_latest_skips_with_their_reasons(tmp_path):
    count = MOST_SKIPS + 2
    store, project = make_store(tmp_path / "l.sqlite", samples(count, 2), ranking_only=True)
    view = OwnersView(store, project)
    assert view.overview()["skips"] == []
    for n in range(count):
        store.skip("ada", store.take("ada").item, f"reason {n}\0")
    found = view.overview()
    assert found["progress"]["skipped"] == count and len(found["skips"]) == MOST_SKIPS
    latest = found["skips"][0]
    assert latest["reason"] == f"reason {count - 1}\\x00" and latest["labeler"] == "ada"
    assert latest["item"] == count and latest["prompt"] == f"Question {count - 1}?"


def test_what_was_written_is_counted_for_the_next_item(tmp_path, monkeypatch):
    board = Board(*make_store(tmp_path / "w", prompts(3), kind="demonstrations"), instructions="")
    counted = []
    real = board_module.exported_rows
    monkeypatch.setattr(board_module, "exported_rows", lambda s: counted.append(1) or real(s))
    answer = {"prompt": "Hm.", "completion": "Yes.", "request_form": "plain", "use_case": "chat"}
    # every answer is read: once in a while, not for each who asks
    first = board.state("ada")
    board.state("bob")
    assert len(counted) == 1
    monkeypatch.setattr(board_module, "RECOUNT_SECONDS", -1)
    told = board.save("ada", {"item": first["task"]["item"], "answer": answer})
    short = ({row["use_case"]: row["n"] for row in found["short"]} for found in (first, told))
    assert [one["chat"] for one in short] == [0, 1]


def test_an_export_larger_than_a_browser_takes_is_the_commands(tmp_path, monkeypatch):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 2), ranking_only=True)
    store.answer("ada", store.take("ada").item, {"ranks": [1, 2]}, 1.0)
    monkeypatch.setattr(owner_module, "LARGEST", 10)
    with pytest.raises(UserError, match="python -m data_prep.label --database l.sqlite --output"):
        OwnersView(store, project).export()


def test_a_disagreement_names_the_row_of_the_file(tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 2), per_item=2)
    for name, ranks in ("ada", [1, 2]), ("bob", [2, 1]):
        answer = {"ranks": ranks, "quality": [4, 4], "flags": [[], []]}
        store.answer(name, store.take(name).item, answer, 1.0)
    [told] = OwnersView(store, project).overview()["agreement"]["disagreements"]
    assert told["item"] == "1 (p0)"


def test_what_was_left_out_comes_back_with_its_reason(board):
    item = board.state("ada")["task"]["item"]
    board.skip("ada", {"item": item, "reason": "no \u202e idea"})
    back = board.undo("ada", {})["task"]
    assert (back["item"], back["skipped"], back["previous"]) == (item, "no \\u202e idea", None)
    assert board.save("ada", {"item": item, "answer": ranking([0, 1, 2, 3], 4)})["saved"] == item


def test_a_row_whose_id_is_a_number_is_told_as_well(tmp_path):
    [item] = samples(1, 2)
    numbered = Item({**item.row, "prompt_id": 7})
    store, project = make_store(tmp_path / "l.sqlite", [numbered], per_item=2, ranking_only=True)
    for name, ranks in ("ada", [1, 2]), ("bob", [2, 1]):
        store.answer(name, store.take(name).item, {"ranks": ranks}, 1.0)
    [told] = OwnersView(store, project).overview()["agreement"]["disagreements"]
    assert told["item"] == "1 (7)"
