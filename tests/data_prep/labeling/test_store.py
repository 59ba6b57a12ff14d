"""What labelers say is stored: nothing is overwritten, nothing is given twice or told to them."""

import json
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from labeling_tools import Clock, item, ranked, store_of

from data_prep.labeling import store as store_module
from data_prep.labeling.store import Item, Project, Store
from instruct.errors import UserError


def test_an_answer_is_on_the_disk_before_it_counts_as_saved(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    task = store.take("ada")
    store.answer("ada", task.item, ranked([2, 1, 1]), 12.34)
    # another connection: what a reader sees is committed
    [row] = Store.read(tmp_path / "labels.sqlite").answers()
    assert row["answer"] == ranked([2, 1, 1]) and row["labeler"] == "ada"
    assert row["seconds"] == 12.3 and row["order"] == list(task.order)
    assert not store._connection.in_transaction


def test_a_task_says_nothing_of_models_and_has_a_random_order_that_stays(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", items=[item(i, 5) for i in range(30)])
    orders = []
    for _ in range(30):
        task = store.take("ada")
        assert "secret" not in repr(task) and task == store.take("ada")
        assert sorted(task.order) == [0, 1, 2, 3, 4]
        orders.append(task.order)
        store.skip("ada", task.item, "no")
    # 30 of 120 orders: a fixed one would be one
    assert len(set(orders)) > 20
    firsts = [order[0] for order in orders]
    assert set(firsts) == {0, 1, 2, 3, 4}
    other = Store.read(tmp_path / "labels.sqlite")
    kept = [json.loads(o) for (o,) in other._rows("SELECT shown_order FROM assignments")]
    assert sorted(map(tuple, kept)) == sorted(orders)


def test_two_labelers_see_other_orders_and_another_seed_draws_others(tmp_path):
    items = [item(i, 9) for i in range(3)]
    one = store_of(tmp_path / "one.sqlite", items=items, per_item=2)
    other = store_of(tmp_path / "other.sqlite", items=items, seed=1)
    orders = {one.take("ada").order, one.take("bob").order, other.take("ada").order}
    assert len(orders) == 3


def test_who_changes_his_mind_adds_an_answer(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    task = store.take("ada")
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    again = store.undo("ada")
    assert again.item == task.item and again.previous == ranked([1, 2, 3])
    assert again.order == task.order
    # until he saves anew, what he said counts
    assert [row["answer"]["ranks"] for row in store.answers()] == [[1, 2, 3]]
    assert store.take("ada") == again
    store.answer("ada", task.item, ranked([3, 2, 1]), 2)
    assert [row["answer"]["ranks"] for row in store.answers()] == [[3, 2, 1]]
    assert [one["answer"]["ranks"] for one in store.history()] == [[1, 2, 3], [3, 2, 1]]
    assert store.take("ada").item != task.item


def test_answers_are_never_changed_nor_deleted(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    for statement in ("UPDATE answers SET labeler = 'eve'", "DELETE FROM answers"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            store._connection.execute(statement)


def test_undo_goes_back_one_by_one_and_on_again(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=5)
    for _ in range(3):
        store.answer("ada", store.take("ada").item, ranked([1, 1, 1]), 1)
    held = store.take("ada").item
    assert [store.undo("ada").item for _ in range(3)] == [3, 2, 1]
    assert store.undo("ada") is None
    for expected in (1, 2, 3):
        assert store.take("ada").item == expected
        store.answer("ada", expected, ranked([2, 1, 1]), 1)
    assert store.take("ada").item == held
    assert store.progress("ada")["done"] == 3
    assert store.undo("bob") is None


def test_the_same_answer_sent_again_is_no_second_one(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    task = store.take("ada")
    for _ in range(3):
        store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    assert len(list(store.history())) == 1
    with pytest.raises(UserError, match="saved before; undo"):
        store.answer("ada", task.item, ranked([3, 2, 1]), 1)
    with pytest.raises(UserError, match="saved before; undo"):
        store.skip("ada", task.item, "no")


def test_a_skip_keeps_its_reason_and_can_be_undone(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    task = store.take("ada")
    store.skip("ada", task.item, " all of them are Latin ")
    assert list(store.answers()) == []
    [kept] = store.history()
    assert kept["reason"] == "all of them are Latin" and kept["answer"] is None
    with pytest.raises(UserError, match="left out by you; undo"):
        store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    again = store.undo("ada")
    assert again.item == task.item and again.previous is None
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    assert store.progress("ada") == {
        "done": 1, "skipped": 0, "left": 3, "items": 4, "seconds_per_item": 1.0,
    }  # fmt: skip


def test_what_is_left_out_now_is_told_with_its_reason_latest_first(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=5, per_item=2)
    for name, reason in [("ada", "first"), ("bob", "not mine"), ("ada", "later")]:
        store.skip(name, store.take(name).item, reason)
    told = [(one["item"], one["labeler"], one["reason"]) for one in store.skips()]
    assert told == [(2, "ada", "later"), (1, "bob", "not mine"), (1, "ada", "first")]
    assert all(one["timestamp"] for one in store.skips())
    # undone it is one until he saves anew; the history keeps it
    again = store.undo("bob")
    assert [one["labeler"] for one in store.skips()] == ["ada", "bob", "ada"]
    store.answer("bob", again.item, ranked([1, 2, 3]), 1)
    assert [one["labeler"] for one in store.skips()] == ["ada", "ada"]
    assert len(list(store.history())) == 4


def test_another_reason_in_another_tab_is_not_dropped(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    task = store.take("ada")
    store.skip("ada", task.item, "no")
    # sent again, as where the network ate what was told, it is no second one
    store.skip("ada", task.item, " no ")
    with pytest.raises(UserError, match="left out before; undo to change the reason"):
        store.skip("ada", task.item, "personal data")
    store.undo("ada")
    store.skip("ada", task.item, "personal data")
    assert [one["reason"] for one in store.history()] == ["no", "personal data"]


def test_what_is_passed_on_the_way_back_stays_skipped(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    store.skip("ada", store.take("ada").item, "no")
    before = store.progress("ada")
    assert [store.undo("ada").item for _ in range(2)] == [2, 1]
    assert store.progress("ada") == before
    assert [(one["item"], one["reason"]) for one in store.skips()] == [(2, "no")]
    # he goes on through it, and nobody else gets it meanwhile
    store.answer("ada", 1, ranked([2, 1, 3]), 1)
    assert store.take("bob").item == 3
    assert store.take("ada").item == 2
    store.answer("ada", 2, ranked([1, 2, 3]), 1)
    assert store.progress("ada")["skipped"] == 0 and not list(store.skips())


def test_what_he_skipped_and_another_took_is_not_undone(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    skipped = store.take("ada").item
    store.skip("ada", skipped, "no")
    assert store.take("bob").item == skipped
    assert store.undo("ada").item == 1


@pytest.mark.parametrize("number", [2, 99, 0, -1, 2**63, 10**40, True, 1.0, "1", None, [1]])
def test_an_item_that_is_not_his_is_refused(tmp_path, number):
    store = store_of(tmp_path / "labels.sqlite")
    store.take("ada")
    assert store.take("bob").item == 2
    with pytest.raises(UserError, match="none of yours"):
        store.answer("ada", number, ranked([1, 2, 3]), 1)
    with pytest.raises(UserError, match="none of yours"):
        store.skip("ada", number, "no")
    assert list(store.history()) == []


@pytest.mark.parametrize(
    "name", ["", " ada", "a\0da", "ada\n", "a" * 200, "a\u202eda", "../x", "\ud800"]
)
def test_a_name_that_cannot_be_shown_is_refused(tmp_path, name):
    store = store_of(tmp_path / "labels.sqlite")
    for action in (
        lambda: store.take(name),
        lambda: store.answer(name, 1, ranked([1, 2, 3]), 1),
        lambda: store.skip(name, 1, "no"),
        lambda: store.undo(name),
    ):
        with pytest.raises(UserError, match="labeler"):
            action()


def test_text_of_any_kind_comes_back_as_it_was(tmp_path):
    hostile = [
        "NUL \0 in the middle",
        "\u202eright to left\u202c and \ufeff",
        "<script>alert(1)</script><img src=x onerror=alert(2)>",
        "'; DROP TABLE answers; --",
        "\U0001f642" + "x" * 2**20,
        "\r\n\t \x85\u2028",
        "",
    ]
    row = {"prompt": [{"role": "user", "content": hostile[0]}], "completions": hostile, "n": 1.5}
    store = store_of(tmp_path / "labels.sqlite", items=[Item(row)])
    task = store.take("Łukasz O'Neil")
    assert task.row["completions"] == hostile
    store.answer("Łukasz O'Neil", task.item, ranked([1] * 7), 1)
    [found] = store.answers()
    assert found["row"] == row and found["labeler"] == "Łukasz O'Neil"


def test_a_demonstration_of_any_text_comes_back_and_half_a_character_is_refused(tmp_path):
    text = "NUL \0 \u202e " + "ü" * 1_000_000
    items = [Item({"prompt_id": "1", "prompt": [{"role": "user", "content": "Hi"}]})]
    store = store_of(tmp_path / "labels.sqlite", items=items, kind="demonstrations")
    task = store.take("ada")
    answer = {"prompt": text, "completion": text, "request_form": "plain", "use_case": None}
    with pytest.raises(UserError, match="lone surrogate"):
        store.answer("ada", task.item, {**answer, "completion": "\ud800"}, 1)
    with pytest.raises(UserError, match="characters; at most"):
        store.answer("ada", task.item, {**answer, "completion": "x" * (2**20 + 1)}, 1)
    store.answer("ada", task.item, answer, 1)
    assert [found["answer"] for found in store.answers()] == [answer]


def test_a_date_of_a_parquet_file_is_kept_as_text_and_bytes_are_refused(tmp_path):
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    store = store_of(tmp_path / "labels.sqlite", items=[item(1, when=when)])
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    assert [row["row"]["when"] for row in store.answers()] == ["2026-01-02T03:04:05+00:00"]
    with pytest.raises(UserError, match="type bytes is no JSON; leave its column out"):
        store_of(tmp_path / "other.sqlite", items=[item(1, image=b"x")])
    # nothing of it is left that would be in the way
    assert store_of(tmp_path / "other.sqlite").progress()["items"] == 4


################
# Begun again
################


def test_begun_again_it_adds_what_is_new_and_keeps_what_there_is(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = store_of(path, count=2, per_item=1)
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    held = store.take("ada")
    store.close()
    # the second is there in other company, by another column
    more = store_of(path, items=[item(1, score=3), item(2), item(0)])
    assert more.progress()["items"] == 3 and more.database == store.database
    assert more.take("ada") == held
    assert [row["row"]["prompt_id"] for row in more.answers()] == ["p0"]
    assert "score" not in json.dumps(list(more._rows("SELECT row FROM items")))


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"per_item": 2}, "--per_item 1, not 2"),
        ({"overlap": 0.5}, "--overlap 0.0, not 0.5"),
        ({"seed": 3}, "--seed 0, not 3"),
        ({"questions": ("opinion",)}, "--questions fails_instruction"),
        ({"ranking_only": True}, "not (none)"),
        ({"kind": "judgements"}, "--kind rankings, not judgements"),
    ],
)
def test_another_project_is_refused_in_a_sentence(tmp_path, changed, told):
    path = tmp_path / "labels.sqlite"
    store_of(path).close()
    with pytest.raises(UserError) as error:
        store_of(path, **changed)
    assert told in str(error.value) and "another --database" in str(error.value)
    assert Store.read(path).project == Project("rankings", overlap=0.0)


def test_instructions_may_be_written_anew(tmp_path):
    path = tmp_path / "labels.sqlite"
    store_of(path, instructions="old").close()
    store_of(path, instructions="new", lease_minutes=5).close()
    assert Store.read(path).project.instructions == "new"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"kind": "stars"}, "--kind stars"),
        ({"per_item": 0}, "--per_item 0"),
        ({"overlap": 1.5}, "--overlap 1.5"),
        ({"questions": ("nice",)}, "--questions nice: no such question"),
        ({"questions": ("opinion", "opinion")}, "named twice"),
        ({"lease_minutes": 0}, "--lease_minutes 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Project(**{"kind": "rankings", **settings})


def test_nothing_to_label_is_told(tmp_path):
    with pytest.raises(UserError, match="nothing to label"):
        Store.create_or_open(tmp_path / "labels.sqlite", Project("rankings"), [])


################
# Progress
################


def test_progress_counts_what_is_done_skipped_and_left(tmp_path):
    items = [item(i) for i in range(4)] + [item(9, owner={"ranks": [1, 2, 3]})]
    store = store_of(tmp_path / "labels.sqlite", items=items, per_item=2)
    clock = Clock(store)
    for seconds in (10, 30, 20):
        store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), seconds)
    store.skip("ada", store.take("ada").item, "no")
    assert store.progress("ada") == {
        "done": 3, "skipped": 1, "left": 1, "items": 5, "seconds_per_item": 20.0,
    }  # fmt: skip
    # two of the four need one more, two need both; bob still has to be screened
    store.take("bob")
    assert store.progress()["left"] == 1 + 1 + 2 + 2 + 1
    assert store.progress("bob")["left"] == 5 and store.progress("new")["left"] == 5
    # he holds the last one of an item that others then cannot get
    store.answer("bob", store.take("bob").item, ranked([1, 2, 3]), 5)
    held = store.take("bob").item
    assert held == 1 and store.progress("new")["left"] == 4
    clock.minutes(61)
    assert store.progress("new")["left"] == 5
    assert store.labelers() == ["ada", "bob"]


def test_labelers_of_an_item_are_a_number_that_a_database_takes(tmp_path):
    for wrong in (0, -1, 10_001, 10**30):
        with pytest.raises(UserError, match=f"--per_item {wrong}: must be from 1 to 10000"):
            store_of(tmp_path / "labels.sqlite", per_item=wrong)
    assert not (tmp_path / "labels.sqlite").exists()


def test_the_time_of_an_item_is_that_of_the_latest(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "RECENT", 2)
    store = store_of(tmp_path / "labels.sqlite")
    for seconds in (90, 4, 6):
        store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), seconds)
    assert store.progress("ada")["seconds_per_item"] == 5.0


def test_a_file_that_was_moved_or_replaced_takes_no_answer(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = store_of(path)
    first = store.take("ada")
    moved = path.rename(tmp_path / "moved.sqlite")
    other = b"another file"
    for is_there in (False, True):
        if is_there:
            path.write_bytes(other)
        with pytest.raises(UserError, match="moved, removed or replaced .* not saved; put it back"):
            store.answer("ada", first.item, ranked([1, 2, 3]), 1)
    assert path.read_bytes() == other
    moved.rename(path)
    store.answer("ada", first.item, ranked([1, 2, 3]), 1)
    assert len(list(Store.read(path).answers())) == 1


def test_who_changes_his_mind_has_taken_the_time_of_both(tmp_path):
    store = store_of(tmp_path / "labels.sqlite")
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 60)
    store.answer("ada", store.undo("ada").item, ranked([2, 1, 3]), 0.8)
    assert next(store.answers())["seconds"] == 60.8
    # also where he left it out in between
    store.skip("ada", store.undo("ada").item, "hm")
    assert store.undo("ada").skipped == "hm"
    store.answer("ada", 1, ranked([2, 1, 3]), 5)
    assert next(store.answers())["seconds"] == 65.8


def test_decimals_and_times_ride_along(tmp_path):
    more = {"price": Decimal("1.50"), "asked": datetime(2026, 1, 2, tzinfo=UTC)}
    store = store_of(tmp_path / "labels.sqlite", items=[item(0, **more)])
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    row = next(store.answers())["row"]
    assert (row["price"], row["asked"]) == ("1.50", "2026-01-02T00:00:00+00:00")
