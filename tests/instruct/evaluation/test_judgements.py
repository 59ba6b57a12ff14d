"""What people say of answers: matched with what is evaluated, counted by hand, told where not."""

import numpy as np
import pytest
from conftest import write_jsonl

from instruct.errors import UserError
from instruct.evaluation.comparison import rate_against
from instruct.evaluation.judgements import check_prompts, judged_by_people, read_judgements
from instruct.evaluation.ranking_metrics import labeler_agreement
from instruct.evaluation.statistics import cluster_bootstrap, pigeonhole_bootstrap
from instruct.evaluation.tables import interval
from instruct.evaluation.verdict import percent

MODELS = ("base", "sft", "ppo")
USERS = ["u0", "u0", "u1", "u2"]


def text_of(model: str, i: int) -> str:
    return f"{model} says {i}"


def prompt_of(i: int) -> list[dict]:
    return [{"role": "user", "content": f"Question {i}?"}]


ANSWERS = {
    model: [
        {"prompt_id": f"p{i}", "prompt": prompt_of(i), "completion": text_of(model, i)}
        for i in range(len(USERS))
    ]
    for model in MODELS
}


def row(i: int, labeler: str, ranks: dict[str, int], **more) -> dict:
    models = list(ranks)
    return {
        "prompt_id": f"p{i}",
        "user_id": USERS[i],
        "prompt": prompt_of(i),
        "models": models,
        "completions": [text_of(model, i) for model in models],
        "order": list(range(len(models))),
        "ranks": list(ranks.values()),
        "quality": [None] * len(models),
        "flags": [[] for _ in models],
        "labeler": labeler,
        "timestamp": "2024-01-01T00:00:00+00:00",
        **more,
    }


ROWS = [
    row(0, "Ada", {"ppo": 1, "sft": 2}, quality=[7, 3], flags=[[], ["hallucination"]]),
    row(1, "Ada", {"sft": 1, "ppo": 1}, quality=[4, 5]),
    row(2, "Ada", {"sft": 1, "ppo": 2}, quality=[6, None], flags=[["opinion"], ["opinion"]]),
    row(0, "Bob", {"sft": 1, "ppo": 2}, quality=[5, 2]),
    row(2, "Bob", {"sft": 1, "ppo": 2, "base": 2}, quality=[6, 5, 1]),
    row(3, "Cem", {"ppo": 1, "sft": 2}),
]


def found_in(tmp_path, rows, models=MODELS):
    file = write_jsonl(tmp_path / "j.jsonl", rows)
    return judged_by_people(file, read_judgements(file, models), ANSWERS, USERS)


def test_win_rates_quality_and_flags_are_those_counted_by_hand(tmp_path):
    found = found_in(tmp_path, ROWS)
    assert (found["rows"], found["used"], found["left_out"]) == (6, 6, {})
    assert (found["labelers"], found["users"]) == (3, 3)
    rate = found["win_rate"]["ppo_vs_sft"]
    # won, tied, lost, lost, lost, won
    assert rate["rate"] == pytest.approx(2.5 / 6) and (rate["n"], rate["ties"]) == (6, 1)
    assert rate["low"] < rate["rate"] < rate["high"]
    assert found["win_rate"]["sft_vs_base"]["rate"] == 1.0
    assert found["win_rate"]["ppo_vs_base"] == {
        "rate": 0.5, "low": None, "high": None, "n": 1, "ties": 1,
    }  # fmt: skip
    assert list(found["win_rate"]) == ["sft_vs_base", "ppo_vs_base", "ppo_vs_sft"]
    assert found["quality"]["ppo"]["mean"] == (7 + 5 + 2 + 5) / 4
    assert found["quality"]["sft"]["n"] == 5 and found["quality"]["base"]["mean"] == 1
    assert found["flags"]["sft"]["opinion"]["rate"] == pytest.approx(1 / 6)
    assert found["flags"]["ppo"]["hallucination"]["rate"] == 0
    assert found["flags"]["ppo"]["opinion"]["n"] == 6


def test_agreement_is_that_of_rankings(tmp_path):
    found = found_in(tmp_path, ROWS)["agreement"]
    # p0: unlike; p2: alike
    assert (found["rate"], found["n_pairs"]) == (0.5, 2) and found["low"] <= 0.5 <= found["high"]
    assert {k: found[k] for k in ("rate", "n_pairs")} == labeler_agreement(ROWS)
    assert found_in(tmp_path, ROWS[:3])["agreement"] is None


def test_nobody_agrees_with_themselves(tmp_path):
    """Of two files put together, the second with one model more: one labeler, twice."""
    rows = [row(0, "Ada", {"ppo": 1, "sft": 2}), row(0, "Ada", {"ppo": 1, "sft": 2, "base": 3})]
    assert found_in(tmp_path, rows)["agreement"] is None


def test_quality_and_flags_that_were_not_asked_are_not_there(tmp_path):
    found = found_in(tmp_path, [row(i, "Ada", {"ppo": 1, "sft": 2}) for i in range(4)])
    assert found["quality"] == {} and found["flags"] == {}
    bare = [row(0, "Ada", {"ppo": 1, "sft": 2}, quality=None, flags=None)]
    assert found_in(tmp_path, bare)["win_rate"]["ppo_vs_sft"]["rate"] == 1.0


def test_a_question_is_rated_over_those_who_were_asked_it(tmp_path):
    """One that nobody ticked is 0 %; rows that asked only ranks, or others, say nothing."""
    of = {"sft": 1, "ppo": 2}
    rows = [
        row(0, "Ada", of, flags=[["opinion"], []], questions=["opinion", "hallucination"]),
        row(1, "Ada", of, questions=["opinion"]),
        row(2, "Bob", of, questions=[]),
        row(3, "Cem", {"base": 1, "sft": 2}, questions=["inappropriate"]),
        # of an earlier export
        row(0, "Dan", of, flags=[[], ["denigrates"]]),
        row(1, "Dan", of),
    ]
    found = found_in(tmp_path, rows)["flags"]
    counted = {
        key: (rate["rate"], rate["n"]) if rate else None for key, rate in found["sft"].items()
    }
    assert counted == {
        "opinion": (0.5, 2), "hallucination": (0, 1), "inappropriate": (0, 1), "denigrates": (0, 2),
    }  # fmt: skip
    assert found["ppo"]["denigrates"]["rate"] == 0.5 and found["ppo"]["inappropriate"] is None
    assert list(found["base"]) == list(found["sft"]) == list(found["ppo"])


def test_what_was_ticked_and_not_asked_is_told(tmp_path):
    of = {"sft": 1, "ppo": 2}
    for more, why in (
        ({"flags": [["opinion"], []], "questions": []}, "holds 'opinion', which 'questions'"),
        ({"questions": "opinion"}, "'questions' must be a list"),
    ):
        with pytest.raises(UserError, match=why):
            found_in(tmp_path, [row(0, "Ada", of, **more)])


def test_a_model_that_nobody_judged_has_no_flags(tmp_path):
    found = found_in(tmp_path, ROWS[:4])
    # the report's columns are those of the first model
    assert list(found["flags"]) == ["sft", "ppo"] and list(found["quality"]) == ["sft", "ppo"]


################
# Other answers
################


def test_judgements_on_other_answers_are_told_and_left_out(tmp_path, capsys):
    other = row(3, "Ada", {"ppo": 1, "sft": 2})
    other["completions"][0] = "something else"
    rows = [
        *ROWS,
        other,
        row(1, "Bob", {"ppo": 1, "sft": 2}, prompt_id="p9"),
        row(1, "Cem", {"old": 1, "sft": 2}),
        # a model that is not evaluated beside two that are
        row(1, "Dan", {"old": 1, "sft": 2, "ppo": 3}),
    ]
    found = found_in(tmp_path, rows)
    assert (found["rows"], found["used"]) == (10, 7)
    assert found["left_out"] == {"another_answer": 1, "another_prompt": 1, "other_models": 1}
    assert found["win_rate"]["ppo_vs_sft"]["rate"] == pytest.approx(2.5 / 7)
    said = capsys.readouterr().out
    assert "7 of 10 judgements are on these answers; left out: 1 on another answer" in said
    assert "j.jsonl, line 7, on another answer)" in said and said.count("\n") == 1


def test_the_same_short_answers_to_another_prompt_are_another_prompts(tmp_path):
    # rows without ids are called by their number, in whatever file
    other = row(1, "Bob", {"ppo": 1, "sft": 2}, prompt="Another question?")
    same = row(2, "Bob", {"ppo": 1, "sft": 2}, prompt="Question 2?")
    found = found_in(tmp_path, [*ROWS[:1], other, same])
    assert found["used"] == 2 and found["left_out"] == {"another_prompt": 1}


def test_no_judgement_on_these_answers_is_an_error(tmp_path):
    with pytest.raises(UserError) as error:
        found_in(tmp_path, [row(0, "Ada", {"ppo": 1, "sft": 2}, completions=["x", "y"])])
    assert "no judgement is on these answers (1 on another answer; first: " in str(error.value)
    with pytest.raises(UserError, match="is on new, old, fewer than two of --models"):
        found_in(tmp_path, [row(0, "Ada", {"old": 1, "new": 2})])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ranks": None}, "no 'ranks'; give what data_prep.label --kind judgements has written"),
        ({"models": None}, "no 'models'"),
        ({"prompt": None}, "no 'prompt'"),
        ({"prompt": []}, "'prompt' is empty"),
        ({"models": ["ppo"]}, "'models' must be two or more names"),
        ({"models": ["ppo", "ppo"]}, "'models' must be two or more names"),
        ({"completions": ["a"]}, "'completions' must hold one entry for each"),
        ({"ranks": [1, "2"]}, "'ranks' must hold one entry for each"),
        ({"ranks": [1, True]}, "'ranks' must hold one entry for each"),
        ({"quality": [8, 1]}, "'quality' is from 1 to 7"),
        ({"quality": "good"}, "'quality' must hold one entry for each"),
        ({"flags": [[], "opinion"]}, "'flags' must hold one entry for each"),
        ({"labeler": "llm:gpt"}, "llm:gpt is no person; judges that are none are asked by --judge"),
        ({"labeler": "scripted"}, "scripted is no person"),
    ],
)
def test_a_row_that_is_no_judgement_is_told_with_its_place(tmp_path, change, why):
    rows = [ROWS[0], {**ROWS[1], **change}]
    with pytest.raises(UserError) as error:
        found_in(tmp_path, rows)
    assert why in str(error.value) and "j.jsonl, line 2" in str(error.value)


def test_the_same_answers_to_another_prompt_under_the_same_id_are_others(tmp_path):
    rows = [row(0, "Ada", {"ppo": 1, "sft": 2}), row(0, "Ada", {"ppo": 1, "sft": 2})]
    rows[1]["prompt"] = prompt_of(7)
    found = found_in(tmp_path, rows)
    assert (found["used"], found["left_out"]) == (1, {"another_prompt": 1})


def test_nobody_judges_the_same_answers_twice(tmp_path):
    again = row(0, "Ada", {"sft": 1, "ppo": 2})
    with pytest.raises(UserError, match=r"line 7: Ada has judged these answers before .*line 1"):
        found_in(tmp_path, [*ROWS, again])


################
# Intervals
################


def plain_pigeonhole(values, rows, columns, draws, seed) -> list[float]:
    """Means of resamples, by a plain loop over drawn rows and drawn columns."""
    row_names, column_names = sorted(set(rows)), sorted(set(columns))
    random = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn_rows = random.choice(row_names, len(row_names))
        drawn_columns = random.choice(column_names, len(column_names))
        seen = [
            value
            for r in drawn_rows
            for c in drawn_columns
            for value, row_, column in zip(values, rows, columns, strict=True)
            if (row_, column) == (r, c)
        ]
        means += [sum(seen) / len(seen)] if seen else []
    return means


def test_the_two_way_interval_is_that_of_a_plain_loop():
    random = np.random.default_rng(1)
    rows = [f"u{i}" for i in random.integers(9, size=60)]
    columns = [f"l{i}" for i in random.integers(4, size=60)]
    shift = {name: random.normal() for name in dict.fromkeys([*rows, *columns])}
    values = [random.normal() + shift[r] + shift[c] for r, c in zip(rows, columns, strict=True)]
    mean, low, high = pigeonhole_bootstrap(values, rows, columns, draws=20_000)
    plain = np.percentile(plain_pigeonhole(values, rows, columns, 4000, 7), [2.5, 97.5])
    assert mean == pytest.approx(np.mean(values))
    assert [low, high] == pytest.approx(plain, abs=0.06)
    # wider than by users alone, as labelers differ
    _, one_low, one_high = cluster_bootstrap(values, rows, draws=20_000)
    assert high - low > one_high - one_low


def test_one_labeler_is_clustered_by_user_alone():
    random = np.random.default_rng(2)
    values, users = random.random(80), random.integers(20, size=80)
    two = pigeonhole_bootstrap(values, users, ["Ada"] * 80, draws=20_000)
    assert two == pytest.approx(cluster_bootstrap(values, users, draws=20_000), abs=0.01)
    # where a draw can have no value, it is left out
    assert pigeonhole_bootstrap([1.0, 1.0], ["a", "b"], ["x", "y"]) == (1.0, 1.0, 1.0)
    with pytest.raises(UserError, match="must be finite"):
        pigeonhole_bootstrap([1.0, float("nan")], ["a", "b"], ["x", "y"])


def test_judgements_on_no_prompt_are_told_before_answers_are_asked_for(tmp_path):
    file = write_jsonl(tmp_path / "j.jsonl", ROWS)
    judgements = read_judgements(file, MODELS)
    here = [{"prompt_id": "p2", "prompt": prompt_of(2)}]
    check_prompts(file, judgements, here)
    for other in ({"prompt_id": "p9", "prompt": prompt_of(2)}, {**here[0], "prompt": prompt_of(3)}):
        with pytest.raises(UserError, match="6 on a prompt that is not evaluated"):
            check_prompts(file, judgements, [other])


def test_intervals_are_clustered_by_user(tmp_path):
    draw = np.random.default_rng(0)
    rows = []
    for i in range(4):
        for name in "abcdefgh":
            won = bool(draw.random() < (0.9 if USERS[i] == "u0" else 0.3))
            rows.append(row(i, name, {"ppo": 2 - won, "sft": 1 + won}))
    found = found_in(tmp_path, rows)
    won = [float(one["ranks"][0] < one["ranks"][1]) for one in rows]
    users, labelers = [one["user_id"] for one in rows], [one["labeler"] for one in rows]
    rate = found["win_rate"]["ppo_vs_sft"]
    wanted = pigeonhole_bootstrap(won, users, labelers)
    assert (rate["rate"], rate["low"], rate["high"]) == pytest.approx(wanted)
    alike, of = [], []
    for i in range(4):
        on = [w for one, w in zip(rows, won, strict=True) if one["prompt_id"] == f"p{i}"]
        pairs = [float(on[a] == on[b]) for a in range(8) for b in range(a + 1, 8)]
        alike += pairs
        of += [USERS[i]] * len(pairs)
    agreed = found["agreement"]
    assert (agreed["rate"], agreed["low"], agreed["high"]) == pytest.approx(
        cluster_bootstrap(alike, of)
    )


def test_one_text_of_two_models_is_a_tie(tmp_path):
    answers = {name: [{**rows[0], "completion": "same"}] for name, rows in ANSWERS.items()}
    rows = [row(0, name, {"ppo": 1, "sft": 2}, completions=["same"] * 2) for name in ("Ada", "Bob")]
    file = write_jsonl(tmp_path / "j.jsonl", rows)
    found = judged_by_people(file, read_judgements(file, MODELS), answers, USERS[:1])
    assert found["win_rate"]["ppo_vs_sft"]["ties"] == 2 and found["agreement"] is None


def test_one_labeler_of_one_user_is_no_sample(tmp_path):
    found = found_in(tmp_path, [row(0, "Ada", {"ppo": 1, "sft": 2}, quality=[7, 3])])
    rate, quality = found["win_rate"]["ppo_vs_sft"], found["quality"]["ppo"]
    assert rate == {"rate": 1.0, "low": None, "high": None, "n": 1, "ties": 0}
    assert percent(rate) == "100.0 %" and interval(quality) == "7.000"
    other_way = rate_against(found["win_rate"], "sft", "ppo")
    assert (other_way["rate"], other_way["low"], other_way["high"]) == (0.0, None, None)
    two = found_in(tmp_path, [row(0, name, {"ppo": 1, "sft": 2}) for name in ("Ada", "Bob")])
    assert two["agreement"] == {"rate": 1.0, "low": None, "high": None, "n_pairs": 1}


def test_a_file_with_one_of_the_models_is_told(tmp_path):
    file = write_jsonl(tmp_path / "j.jsonl", ROWS)
    with pytest.raises(UserError, match="fewer than two of --models"):
        read_judgements(file, ("ppo", "another"))


def test_answers_under_one_id_are_compared_where_they_are_the_same(tmp_path):
    """Two prompts without ids of their own, both number 0."""
    answers = {
        name: [rows[0], {**rows[0], "completion": f"{name} says more"}]
        for name, rows in ANSWERS.items()
    }
    more = row(0, "Bob", {"ppo": 2, "sft": 1})
    more["completions"] = ["ppo says more", "sft says more"]
    file = write_jsonl(tmp_path / "j.jsonl", [row(0, "Ada", {"ppo": 1, "sft": 2}), more])
    found = judged_by_people(file, read_judgements(file, MODELS), answers, USERS[:2])
    assert found["used"] == 2 and found["agreement"] is None
