"""Models compared two by two by a judge that is no server: what is kept, asked again, counted."""

import pytest

from instruct.errors import UserError
from instruct.evaluation import pairwise
from instruct.evaluation.llm_judge import LLMJudge, Tally
from instruct.evaluation.pairwise import add_wins


class Says(LLMJudge):
    """Gives the verdicts of a list, one a pair, and notes what it was asked."""

    def __init__(self, verdicts: list):
        super().__init__("m", "http://localhost", "{prompt}")
        self.left, self.asked = list(verdicts), 0

    def verdicts(self, pairs):
        self.asked += len(pairs)
        return [self.left.pop(0) for _ in pairs]


@pytest.fixture()
def answers(monkeypatch):
    monkeypatch.setattr(pairwise, "keep", lambda folder, rows: None)
    return {
        name: [{"prompt": f"p{i}", "completion": f"{name}{i}"} for i in range(12)]
        for name in ("sft", "ppo")
    }


def test_what_could_not_be_read_is_asked_again_and_nothing_else(answers):
    judge = Says([[1.0, 1.0]] * 11 + [[1.0, None]] + [[0.0, 0.0]])
    add_wins(answers, judge, "llm", "key", None)
    assert judge.asked == 12 and judge.tally.unreadable == 1
    add_wins(answers, judge, "llm", "key", None)
    assert judge.asked == 13
    # counted from the start each time
    assert (judge.tally.pairs, judge.tally.replies, judge.tally.unreadable) == (12, 24, 0)
    assert [row["wins"]["llm"]["sft"] for row in answers["ppo"]] == [1.0] * 11 + [0.0]


def test_a_few_replies_that_are_mostly_unreadable_are_no_judge(answers):
    with pytest.raises(UserError, match="3 of 24 replies hold no verdict"):
        add_wins(answers, Says([[1.0, 1.0]] * 9 + [[1.0, None]] * 3), "llm", "key", None)


def test_what_was_not_read_is_no_disagreement():
    tally = Tally()
    tally.add([[1.0, None], [1.0, 0.0], [1.0, 1.0], []])
    assert (tally.pairs, tally.replies, tally.unreadable, tally.disagreed) == (4, 6, 1, 1)
