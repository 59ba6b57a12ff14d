"""Agreement by hand-counted pairs, alpha against known values, screening, disagreements."""

import builtins
import random

import pytest
from labeling_tools import item, ranked, store_of

from data_prep.labeling import agreement
from data_prep.labeling.agreement import Compared, alpha_of, rate_of, report
from instruct.errors import UserError
from instruct.evaluation.ranking_metrics import labeler_agreement


def said(number: int, labeler: str, ranks: list[int], owner=None, quality=None, flags=None) -> dict:
    return {
        "item": number,
        "row": item(number, len(ranks)).row,
        "answer": ranked(ranks, quality, flags),
        "labeler": labeler,
        "is_screening": owner is not None,
        "owner": owner,
    }


def test_a_text_that_is_there_twice_is_not_preferred_to_itself():
    one, other = said(1, "ada", [1, 3, 2]), said(1, "bob", [3, 1, 2])
    for answer in (one, other):
        answer["row"]["completions"] = ["x", "x", "y"]
    # on average both call x and y equal
    assert report([one, other])["pairwise"] is None
    one["answer"]["ranks"], other["answer"]["ranks"] = [1, 1, 2], [2, 3, 1]
    assert report([one, other])["pairwise"]["rate"] == 0.0
    assert report([one, other])["pairwise"]["n_pairs"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_a_plain_count(seed):
    draw = random.Random(seed)
    answers = []
    for number in range(6):
        count = draw.randint(2, 6)
        texts = [draw.choice("vwxyz") for _ in range(count)]
        for name in draw.sample(["ada", "bob", "eve", "kim"], draw.randint(1, 4)):
            answers.append(said(number, name, [draw.randint(1, 3) for _ in range(count)]))
            answers[-1]["row"]["completions"] = texts
    rows = [{**one["row"], "ranks": one["answer"]["ranks"]} for one in answers]
    found, plain = report(answers)["pairwise"], labeler_agreement(rows)
    assert (found and found["n_pairs"]) == (plain and plain["n_pairs"])
    assert found is None or found["rate"] == pytest.approx(plain["rate"])


def test_pairs_count_where_both_prefer_one_of_the_two():
    answers = [
        said(1, "ada", [1, 2, 3]),
        said(1, "bob", [1, 2, 2]),  # 2 pairs strict for both, both alike
        said(2, "ada", [1, 2, 3]),
        said(2, "bob", [3, 2, 1]),  # 3 pairs, none alike
        said(3, "ada", [1, 2, 3]),  # alone
    ]
    found = report(answers)
    assert found["pairwise"]["rate"] == 2 / 5
    assert (found["pairwise"]["n_pairs"], found["pairwise"]["n_items"]) == (5, 2)
    assert found["by_pair"] == [{"labelers": ["ada", "bob"], "rate": 2 / 5, "n_pairs": 5}]
    # the same as what the reward model is held against
    rows = [{**one["row"], "ranks": one["answer"]["ranks"]} for one in answers]
    assert labeler_agreement(rows) == {"rate": 2 / 5, "n_pairs": 5}


def test_each_pair_of_people_is_compared_and_each_with_all_others():
    answers = [
        said(n, name, ranks)
        for n in (1, 2)
        for name, ranks in (("ada", [1, 2]), ("bob", [1, 2]), ("eve", [2, 1]))
    ]
    found = report(answers)
    rates = {tuple(pair["labelers"]): pair["rate"] for pair in found["by_pair"]}
    assert rates == {("ada", "bob"): 1.0, ("ada", "eve"): 0.0, ("bob", "eve"): 0.0}
    others = {name: one["others"]["rate"] for name, one in found["by_labeler"].items()}
    assert others == {"ada": 0.5, "bob": 0.5, "eve": 0.0}
    assert found["pairwise"]["rate"] == 1 / 3


def test_the_interval_draws_whole_items():
    draw = random.Random(0)
    # of an item five pairs of people are alike or none: 100 of them say no more than 20 items
    compared = [
        Compared(n, (one, other), alike, 1)
        for n in range(20)
        for alike in [draw.choice([0, 1])]
        for one, other in ("ab", "ac", "bc", "ad", "bd")
    ]
    found = rate_of(compared)
    assert (found["n_pairs"], found["n_items"]) == (100, 20)
    assert found["low"] < found["rate"] < found["high"]
    # 4 standard errors: 0.44 of 20 coins, 0.2 of 100
    assert 0.35 < found["high"] - found["low"] < 0.5


def test_one_item_has_no_interval():
    found = report([said(1, "ada", [1, 2, 3]), said(1, "bob", [1, 3, 2])])["pairwise"]
    assert found["rate"] == 2 / 3 and found["low"] is None and found["high"] is None


def test_alpha_is_krippendorffs_of_ordinal_data():
    # the published example (Krippendorff 2011, ordinal: 0.815), a unit an output
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    group = [said(1, name, [1] * 12) for name in "abcd"]
    for one, values in zip(group, data, strict=True):
        one["answer"]["quality"] = values
    assert alpha_of([group], "quality") == pytest.approx(0.815, abs=5e-4)


def test_alpha_knows_agreement_chance_and_nothing():
    draw = random.Random(0)
    same, chance = [], []
    for n in range(300):
        ranks = draw.sample([1, 2, 3], 3)
        same += [said(n, "ada", ranks), said(n, "bob", ranks)]
        chance += [said(n, "ada", ranks), said(n, "bob", draw.sample([1, 2, 3], 3))]
    assert report(same)["alpha"]["ranks"] == 1.0
    assert abs(report(chance)["alpha"]["ranks"]) < 0.1
    assert report([said(1, "ada", [1, 2, 3])])["alpha"]["ranks"] is None
    tied = [said(1, "ada", [1, 1, 1]), said(1, "bob", [1, 1, 1])]
    assert report(tied)["alpha"]["ranks"] is None and report(tied)["pairwise"] is None


def test_an_answer_that_comes_alone_does_not_change_alpha():
    both = [said(n, name, [1, 2, 3] if n % 3 else [2, 1, 3]) for n in range(9) for name in "ab"]
    both[0] = said(0, "a", [3, 1, 2])
    alone = [said(n, "c", [1, 1, 1]) for n in range(50, 90)]
    assert report(both)["alpha"] == report(both + alone)["alpha"]


################
# Screening
################

OWNER = {"ranks": [1, 2, 3], "flags": None}


def test_agreement_with_the_owner_has_a_soft_cutoff():
    answers = [
        said(1, "ada", [1, 2, 3], OWNER), said(2, "ada", [1, 2, 3], OWNER),
        said(1, "bob", [1, 2, 3], OWNER), said(2, "bob", [2, 3, 1], OWNER),
        said(3, "eve", [1, 2, 3]),
    ]  # fmt: skip
    people = report(answers)["by_labeler"]
    assert people["ada"]["screening"]["rate"] == 1.0 and people["ada"]["below_cutoff"] is False
    # 3 of 3 and 1 of 3 pairs
    assert people["bob"]["screening"]["rate"] == 4 / 6 and people["bob"]["below_cutoff"] is True
    assert people["eve"]["screening"] is None and people["eve"]["below_cutoff"] is None


def test_three_of_four_is_at_the_cutoff_and_not_below():
    owner = {"ranks": [1, 2], "flags": None}
    ranks = [[1, 2], [1, 2], [1, 2], [2, 1]]
    answers = [said(n, "ada", given, owner) for n, given in enumerate(ranks)]
    ada = report(answers)["by_labeler"]["ada"]
    assert ada["screening"]["rate"] == 0.75 and ada["below_cutoff"] is False


def test_who_ties_all_that_the_owner_orders_is_below_the_cutoff():
    lazy = [said(n, "lazy", [1, 1, 1], OWNER) for n in range(4)]
    assert report(lazy)["by_labeler"]["lazy"]["below_cutoff"] is True
    # of a tie of the owner's nothing is asked but flags
    tied = {"ranks": [1, 1, 1], "flags": [[], [], []]}
    ada = report([said(9, "ada", [1, 2, 3], tied)])["by_labeler"]["ada"]
    assert ada["screening"] is None and ada["below_cutoff"] is False
    # nor of copies of one text, which he ordered
    copies = said(9, "ada", [1, 2, 3], {"ranks": [1, 3, 2], "flags": None})
    copies["row"]["completions"] = ["x", "x", "y"]
    assert report([copies])["by_labeler"]["ada"]["below_cutoff"] is None


def test_what_the_owner_was_not_asked_is_not_held_against_anybody():
    """Of an export of --ranking_only, or of a screening with fewer questions."""
    flags = [["violent_content", "denigrates"], []]
    for questions, wanted in ([], None), (["denigrates", "opinion"], {"rate": 0.5, "n": 2}):
        owner = {"ranks": [1, 2], "flags": [[], []], "questions": questions}
        found = report([said(1, "ada", [1, 2], owner, flags=flags)])["by_labeler"]["ada"]
        assert found["screening_flags"] == wanted
        assert found["below_cutoff"] is bool(questions)


def test_flags_of_sensitive_speech_are_compared_where_the_owner_gave_some():
    owner = {"ranks": [1, 2], "flags": [["violent_content"], ["opinion"]]}
    one = said(1, "ada", [1, 2], owner, flags=[[], ["violent_content"]])
    # 2 outputs x 5 questions, 2 of them otherwise; an opinion is none of them
    found = report([one])["by_labeler"]["ada"]
    assert found["screening_flags"] == {"rate": 0.8, "n": 10}
    asked = report([one], questions=("violent_content", "opinion"))["by_labeler"]["ada"]
    assert asked["screening_flags"] == {"rate": 0.0, "n": 2} and asked["below_cutoff"] is True
    assert report([one], questions=())["by_labeler"]["ada"]["screening_flags"] is None


################
# Disagreements
################


def test_disagreements_come_most_different_first():
    answers = [
        said(1, "ada", [1, 2, 3]), said(1, "bob", [1, 2, 3]),
        said(2, "ada", [1, 2, 3]), said(2, "bob", [1, 3, 2]),
        said(3, "ada", [1, 2, 3]), said(3, "bob", [3, 2, 1]),
    ]  # fmt: skip
    found = report(answers)["disagreements"]
    assert [(one["item"], one["opposed"], one["pairs"]) for one in found] == [(3, 3, 3), (2, 1, 3)]
    assert found[0]["answers"]["bob"]["ranks"] == [3, 2, 1]
    assert found[0]["completions"] == ["3a", "3b", "3c"] and "model" not in found[0]
    assert [one["item"] for one in report(answers, most=1)["disagreements"]] == [3]
    # by the share of pairs: 2 of 6 are fewer than 1 of 1
    more = [said(4, "ada", [1, 2, 3, 4]), said(4, "bob", [2, 1, 4, 3])]
    few = [said(5, "ada", [1, 2]), said(5, "bob", [2, 1])]
    assert [one["item"] for one in report(more + few)["disagreements"]] == [5, 4]


def test_demonstrations_and_nothing_have_no_agreement():
    written = said(1, "ada", [1, 2])
    written["answer"] = {"prompt": "Hi", "completion": "Ho", "request_form": "plain"}
    for answers in ([], [written]):
        found = report(answers)
        assert found["pairwise"] is None and found["by_labeler"] == {}
        assert found["alpha"] == {"ranks": None, "quality": None}


def test_a_store_can_be_asked(tmp_path):
    owner = {"ranks": [1, 2, 3], "flags": [[], [], []]}
    items = [item(0, owner=owner), item(1)]
    store = store_of(tmp_path / "labels.sqlite", items=items, per_item=2)
    for name in ("ada", "bob"):
        for ranks in ([1, 2, 3], [3, 1, 2]):
            store.answer(name, store.take(name).item, ranked(ranks), 1)
    found = report(store.answers(), store.project.questions)
    assert found["pairwise"]["rate"] == 1.0 and found["pairwise"]["n_items"] == 2
    assert found["by_labeler"]["ada"]["screening"]["rate"] == 1.0


def test_without_the_package_a_sentence_says_which(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "krippendorff":
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install -e '\.\[label\]'"):
        agreement.report([said(1, "ada", [1, 2]), said(1, "bob", [1, 2])])
