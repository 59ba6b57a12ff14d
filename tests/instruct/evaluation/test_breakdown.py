"""Win rates by groups of prompts and at equal length, by judges that score and that compare."""

import random

import pytest

from data_prep.formats.evaluation_rows import groups_of
from instruct.evaluation.breakdown import breakdown
from instruct.evaluation.llm_judge import LLMJudge
from instruct.evaluation.panel import panel_of
from instruct.evaluation.statistics import win_rate

USERS = [str(i % 7) for i in range(60)]


def answers_of(draw: random.Random) -> dict[str, list[dict]]:
    return {
        name: [
            {
                "scores": {"taste": draw.gauss(0, 1) + better},
                "tokens": draw.randint(3, 30),
                "request_form": "direct" if i < 35 else "few_shot",
                "category": "chat",
            }
            for i in range(60)
        ]
        for name, better in (("sft", 0.0), ("ppo", 0.5))
    }


def test_groups_are_rated_as_if_they_were_all():
    answers = answers_of(random.Random(0))
    (judge,) = panel_of(["scripted"], ["taste"])
    found = breakdown(answers, judge, 0.3, USERS)
    # one category alone is what the whole report says
    assert list(found["win_rate_by"]) == ["request_form"]
    for name, rows in (("direct", range(35)), ("few_shot", range(35, 60))):
        ours, theirs = ([answers[m][i]["scores"]["taste"] for i in rows] for m in ("ppo", "sft"))
        plain = win_rate(ours, theirs, [USERS[i] for i in rows], 0.3)
        group = found["win_rate_by"]["request_form"][name]
        assert group["n"] == len(rows)
        assert group["win_rate"]["ppo_vs_sft"] == {
            key: plain[key] for key in ("rate", "low", "high", "n")
        }
    assert set(found["win_rate_length_controlled"]["ppo_vs_sft"]) == {
        "rate", "low", "high", "n", "length_effect",
    }  # fmt: skip


def test_a_judge_that_compares_is_asked_for_its_wins():
    answers = answers_of(random.Random(1))
    for name, other, won in (("ppo", "sft", 1.0), ("sft", "ppo", 0.0)):
        for row in answers[name]:
            row["wins"] = {"j": {other: won}}
    (judge,) = panel_of(["scripted"], ["j"])
    judge = judge._replace(score=object.__new__(LLMJudge))
    found = breakdown(answers, judge, 0.3, USERS)
    assert found["win_rate_by"]["request_form"]["direct"]["win_rate"]["ppo_vs_sft"]["rate"] == 1.0


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_prompt_is_of_the_group_that_its_row_says_or_reads_as(given):
    row = {"prompt": [{"role": "user", "content": "Write a poem about the sea."}]}
    found = groups_of({**row, "category": given, "language": given})
    assert found["request_form"] == "direct"
    assert found["category"] == (given or "generation")
    assert found.get("language") == given
