"""Who gets what: `per_item` people an item, some items for all, nobody twice, what is left back."""

import random
from collections import Counter, defaultdict

import pytest
from labeling_tools import Clock, item, ranked, store_of

from data_prep.labeling import queue
from data_prep.labeling.schema import open_to_write
from data_prep.labeling.store import Store
from instruct.errors import UserError


def label_all(store, people) -> dict[str, list[int]]:
    """Everybody labels in turn until nothing is left; {labeler: items, as he got them}."""
    got, busy = defaultdict(list), list(people)
    while busy:
        for name in list(busy):
            task = store.take(name)
            if task is None:
                busy.remove(name)
                continue
            got[name].append(task.item)
            store.answer(name, task.item, ranked([1] * len(task.order)), 1)
    return got


@pytest.mark.parametrize("per_item", [1, 2, 3, 5])
def test_an_item_goes_to_so_many_labelers_and_to_nobody_twice(tmp_path, per_item):
    store = store_of(tmp_path / "labels.sqlite", count=20, per_item=per_item)
    got = label_all(store, "abcd")
    assert all(len(set(items)) == len(items) for items in got.values())
    counts = Counter(i for items in got.values() for i in items)
    assert counts == dict.fromkeys(range(1, 21), min(per_item, 4))
    assert store.progress()["left"] == 20 * max(0, per_item - 4)


def test_a_share_of_the_items_goes_to_all(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=60, overlap=0.3)
    counts = Counter(i for items in label_all(store, "abcde").values() for i in items)
    to_all = [i for i, count in counts.items() if count == 5]
    assert set(counts.values()) == {1, 5} and len(counts) == 60
    assert 10 <= len(to_all) <= 27
    assert store.progress()["left"] == 0
    # who comes later still gets those
    assert sorted(label_all(store, "f")["f"]) == sorted(to_all)


def test_what_goes_to_all_stays_so_when_rows_are_added_and_differs_by_seed(tmp_path):
    keys = [item(i).key for i in range(2000)]
    chosen = [key for key in keys if queue.goes_to_all(key, 0.1, seed=0)]
    assert 150 < len(chosen) < 250
    assert not any(queue.goes_to_all(key, 0.0, 0) for key in keys)
    assert all(queue.goes_to_all(key, 1.0, 0) for key in keys)
    assert chosen != [key for key in keys if queue.goes_to_all(key, 0.1, seed=1)]


def test_screening_items_come_first_and_to_all(tmp_path):
    screening = [item(i, owner={"ranks": [1, 2, 3], "flags": None}) for i in (7, 8)]
    items = [item(0), item(1), *screening, item(2)]
    store = store_of(tmp_path / "labels.sqlite", items=items)
    got = label_all(store, "ab")
    assert got["a"][:2] == got["b"][:2] == [3, 4]
    assert Counter(got["a"] + got["b"]) == {1: 1, 2: 1, 3: 2, 4: 2, 5: 1}
    told = [(row["item"], row["is_screening"], row["owner"]) for row in store.answers()]
    assert (3, True, {"ranks": [1, 2, 3], "flags": None}) in told and (1, False, None) in told


def test_a_row_that_is_screened_later_goes_to_all(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = store_of(path, count=3)
    label_all(store, "a")
    store.close()
    more = store_of(path, items=[item(1, owner={"ranks": [1, 2, 3], "flags": None})])
    assert more.take("b").item == 2 and more.take("b").is_screening
    assert more.progress()["items"] == 3


################
# Taken and left
################


def test_an_item_taken_and_left_comes_back_after_the_lease(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    left = store.take("ada")
    assert store.take("bob") is None
    clock.minutes(29)
    assert store.take("bob") is None
    clock.minutes(2)
    assert store.take("bob").item == left.item
    # in the order of his own, and hers is hers no longer
    assert store.take("ada") is None


def test_a_late_answer_counts_where_nobody_has_the_item(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=2, lease_minutes=30)
    clock = Clock(store)
    task = store.take("ada")
    clock.minutes(300)
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    assert [row["labeler"] for row in store.answers()] == ["ada"]
    assert store.take("bob").item == 2


def test_a_late_answer_is_refused_in_a_sentence_where_another_has_the_item(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    task = store.take("ada")
    clock.minutes(31)
    assert store.take("bob").item == task.item
    with pytest.raises(UserError, match="went to another labeler.*30 minutes.*not stored"):
        store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    # bob goes as well: it is free again, also for her
    clock.minutes(31)
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    with pytest.raises(UserError, match="went to another labeler"):
        store.answer("bob", task.item, ranked([1, 2, 3]), 1)
    assert len(list(store.history())) == 1 and store.progress()["left"] == 0


def test_a_late_answer_counts_where_there_is_room_for_two(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30, per_item=2)
    clock = Clock(store)
    task = store.take("ada")
    clock.minutes(31)
    store.take("bob")
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    store.answer("bob", task.item, ranked([1, 2, 3]), 1)
    assert store.take("eve") is None


def test_who_lost_an_item_gets_it_back_in_the_same_order_when_it_is_free(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", items=[item(0, 9)], lease_minutes=30)
    clock = Clock(store)
    task = store.take("ada")
    clock.minutes(31)
    store.take("bob")
    assert store.take("ada") is None
    clock.minutes(31)
    assert store.take("ada") == task


def test_looking_again_begins_the_lease_anew(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    store.take("ada")
    for _ in range(4):
        clock.minutes(20)
        assert store.take("bob") is None
        store.take("ada")


def test_who_comes_back_late_goes_on_with_his_own_item(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=3, lease_minutes=30)
    clock = Clock(store)
    store.take("ada")
    assert store.take("bob").item == 2
    clock.minutes(31)
    # the first is free by now, but the second is what he has begun
    assert store.take("bob").item == 2


def test_a_skipped_item_goes_to_others_but_not_to_all_of_them(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1)
    for name in ("ada", "bob"):
        assert store.take(name).item == 1
        store.skip(name, 1, "no language that I read")
        assert store.take(name) is None
    # two of two could not
    assert store.take("eve") is None
    # until one of them thinks again
    store.undo("bob")
    store.answer("bob", 1, ranked([1, 2, 3]), 1)
    assert store.progress()["left"] == 0


def test_an_answer_that_becomes_a_skip_frees_the_item(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1)
    store.take("ada")
    store.answer("ada", 1, ranked([1, 2, 3]), 1)
    assert store.take("bob") is None
    store.undo("ada")
    store.skip("ada", 1, "I cannot tell after all")
    assert list(store.answers()) == []
    assert store.take("bob").item == 1


def test_a_lease_begins_when_an_item_is_taken_again(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    for name, other in ("ada", "bob"), ("bob", "ada"), ("ada", "bob"):
        assert store.take(name).item == 1
        clock.minutes(29)
        assert store.take(other) is None
        clock.minutes(2)


def test_who_goes_back_to_a_skip_has_it_for_a_lease(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    store.take("ada")
    store.skip("ada", 1, "no")
    clock.minutes(31)
    assert store.undo("ada").item == 1
    assert store.take("bob") is None and store.progress("bob")["left"] == 0
    clock.minutes(31)
    assert store.take("bob").item == 1


def test_what_was_taken_while_the_clock_was_ahead_is_free_after_a_lease(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = store_of(path, count=1, lease_minutes=30)
    clock = Clock(store)
    clock.minutes(365 * 24 * 60)
    store.take("ada")
    store.close()
    store = Store(path, open_to_write(path), can_write=True)
    clock = Clock(store)
    store._begin(store.project, [])
    clock.minutes(29)
    assert store.take("bob") is None
    clock.minutes(2)
    assert store.take("bob").item == 1


def test_what_is_left_to_do_counts_those_who_came_and_what_they_left_out(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=3, overlap=1.0)
    # somebody will come
    assert store.progress()["left"] == 3
    store.skip("ada", store.take("ada").item, "no")
    assert store.progress()["left"] == 2
    store.take("bob")
    assert store.progress()["left"] == 5


def test_a_skip_that_was_undone_and_left_is_a_skip_again(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=1, lease_minutes=30)
    clock = Clock(store)
    store.take("ada")
    store.skip("ada", 1, "no")
    store.undo("ada")
    clock.minutes(31)
    assert store.take("bob").item == 1
    assert store.take("ada") is None
    assert store.progress("ada")["skipped"] == 1


@pytest.mark.parametrize("seed", range(6))
def test_whatever_people_do_the_rules_hold(tmp_path, seed):
    """Random takes, answers, skips, undos and pauses, against what the rules say."""
    draw = random.Random(seed)
    per_item = draw.choice([1, 2, 3])
    screening = [item(90 + i, owner={"ranks": [1, 2, 3], "flags": None}) for i in range(2)]
    items = [item(i) for i in range(12)] + screening
    options = {"per_item": per_item, "overlap": 0.2, "lease_minutes": 30}
    store = store_of(tmp_path / "labels.sqlite", items=items, **options)
    clock = Clock(store)
    to_all = {i for (i,) in store._rows("SELECT id FROM items WHERE to_all = 1")}
    saved = {}  # {(labeler, item): what he said last}
    for step in range(400):
        clock.minutes(draw.choice([0, 1, 5, 20, 40]))
        name = draw.choice("abcde")
        task = store.undo(name) if draw.random() < 0.15 else store.take(name)
        if task is None:
            continue
        key = (name, task.item)
        # what was saved comes back by undo alone, and is said to have been
        assert task.previous == saved.get(key)
        deed = draw.random()
        if deed < 0.15:
            store.skip(name, task.item, f"step {step}")
            saved[key] = None
        elif deed < 0.8:
            answer = ranked(
                draw.choice([[1, 2, 3], [2, 1, 1], [1, 1, 1]]), quality=[1 + step % 7] * 3
            )
            store.answer(name, task.item, answer, 1)
            saved[key] = answer
        counts = Counter(i for (_, i), said in saved.items() if said)
        assert all(count <= per_item for i, count in counts.items() if i not in to_all)
    latest = {(row["labeler"], row["item"]): row["answer"] for row in store.answers()}
    assert latest == {key: said for key, said in saved.items() if said}
    # what is told as left is what can be taken, then and at the end
    clock.minutes(31)
    for name in "abcdef":
        left = store.progress(name)["left"]
        assert left == len(label_all(store, [name])[name])
        assert store.progress(name)["left"] == 0
