"""No cheating: a policy that says one sentence to everybody wins, and is not reported as a win."""

import json

import pytest
from conftest import REPO

from instruct.evaluation.answers import Model
from instruct.evaluation.collapse import checks_of, collapse_of, is_believed, rankings_of
from instruct.evaluation.comparison import rate_against, summarize, win_rates
from instruct.evaluation.modes import Asked
from instruct.evaluation.report import write_report

RECORDED = [
    json.loads(line)
    for line in (REPO / "tests" / "data" / "collapsed_answers.jsonl").read_text().splitlines()
]
BELIEVED = {
    "policy": "ppo", "reference": "sft", "kl": 7.0, "distinct2_ratio": 0.7, "fit_ratio": 0.75,
    "fit_missing": None, "strict_share": 0.55, "tie": 0.3,
}  # fmt: skip


def line(kl=None, distinct2=0.8, fit=None) -> dict:
    more = {} if fit is None else {"fit": {"mean": fit}}
    return {"kl_from_sft": kl, "distinct2": distinct2, **more}


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"kl": 7.01}, ["kl"]),
        ({"distinct2_ratio": 0.69}, ["distinct2_ratio"]),
        ({"fit_ratio": 0.74}, ["fit_ratio"]),
        ({"fit_ratio": -2.0}, ["fit_ratio"]),
        ({"strict_share": 0.54}, ["strict_share"]),
        ({"kl": 23.0, "distinct2_ratio": 0.25, "fit_ratio": 0.25},
         ["kl", "distinct2_ratio", "fit_ratio"]),
        # what was not measured does not speak against it
        ({"kl": None, "distinct2_ratio": None, "fit_ratio": None, "strict_share": None}, []),
    ],
)  # fmt: skip
def test_each_bar_is_one_condition(change, broken):
    collapse = {**BELIEVED, **change}
    checks = checks_of(collapse)
    assert [check.key for check in checks if check.holds is False] == broken
    assert is_believed(collapse) == (not broken)
    for check in checks:
        said = check.sentence()
        assert ("DOES NOT HOLD" in said) == (check.holds is False)
        assert ("not measured" in said) == (check.value is None)


def test_ratios_are_of_the_reference():
    models = {"sft": line(distinct2=0.8, fit=7.5), "ppo": line(2.0, 0.2, 1.875)}
    none = {"strict_share": None, "tie": None}
    found = collapse_of(models, "ppo", "sft", none)
    assert (found["kl"], found["distinct2_ratio"], found["fit_ratio"]) == (2.0, 0.25, 0.25)
    # of a reference without fit or words there is no share
    for fit in (0.0, -1.0):
        models = {"sft": line(distinct2=0.0, fit=fit), "ppo": line(2.0, 0.2, 1.0)}
        found = collapse_of(models, "ppo", "sft", none)
        assert found["fit_ratio"] is None and found["distinct2_ratio"] is None
        assert "fit no better than others" in found["fit_missing"]
    # nor of one whose interval holds nothing at all
    models["sft"]["fit"] = {"mean": 0.06, "low": -0.06, "high": 0.17}
    found = collapse_of(models, "ppo", "sft", none)
    assert found["fit_ratio"] is None and "fit no better than others" in found["fit_missing"]
    models["sft"]["fit"] = {"mean": 0.5, "low": 0.1, "high": 0.9}
    assert collapse_of(models, "ppo", "sft", none)["fit_ratio"] == 2.0
    for policy, reference in (("x", "sft"), ("ppo", "x"), ("sft", "sft")):
        assert collapse_of(models, policy, reference, none) is None


def test_strict_pairs_and_the_width_of_a_tie_are_read_from_the_run(tmp_path):
    assert rankings_of(None) == rankings_of(tmp_path) == {"strict_share": None, "tie": None}
    folder = tmp_path / "comparisons"
    folder.mkdir()
    report = {"pairs": {"train": 30, "validation": 6}}
    (folder / "report.json").write_text(json.dumps(report))  # of an earlier version
    assert rankings_of(tmp_path)["strict_share"] is None
    (folder / "report.json").write_text(json.dumps({**report, "all_pairs": 48}))
    name = str(tmp_path / "somewhere" / "else" / "rankings.jsonl")
    (folder / "run.json").write_text(json.dumps({"data": {"input": {"name": name}}}))
    assert rankings_of(tmp_path) == {"strict_share": 0.75, "tie": None}
    # beside the run, wherever it was moved to
    (tmp_path / "rankings.jsonl.run").write_text(json.dumps({"flags": {"tie": 0.2}}))
    assert rankings_of(tmp_path) == {"strict_share": 0.75, "tie": 0.2}


def test_win_rates_read_the_other_way_round():
    rates = {"b_vs_a": {"rate": 0.7, "low": 0.6, "high": 0.9, "n": 3, "ties": 1}}
    assert rate_against(rates, "b", "a") is rates["b_vs_a"]
    turned = rate_against(rates, "a", "b")
    assert turned == {"rate": pytest.approx(0.3), "low": pytest.approx(0.1),
                      "high": pytest.approx(0.4), "n": 3, "ties": 1}  # fmt: skip
    assert rate_against(rates, "a", "c") is None


################
# The report
################


def report_of(tmp_path, kl: float, column: str = "ppo", fit: float = 1.9, users: int = 24):
    """The report on recorded answers, liked by who likes an exclamation mark."""
    users = [f"u{i % users}" for i in range(len(RECORDED))]
    answers = {}
    for name, texts in (("sft", "sft"), ("ppo", column)):
        answers[name] = [
            {
                "model": name,
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": row[texts],
                "gold": 1.0 if name == "ppo" else 0.0,
                "scores": {"the cheerful": float(name == "ppo")},
                "tokens": 8,
                "ended": True,
                "fit": 7.5 if name == "sft" else fit,
                "logprob": -10.0,
                "reference_logprob": -10.0 - kl,
                "asked": "x",
            }
            for row in RECORDED
        ]
    models = [Model("sft", Asked("out/sft")), Model("ppo", Asked("out/p p"))]
    rates = win_rates(answers, users, lambda row: row["gold"])
    lines = {m.name: summarize(m, answers[m.name], users, "sft") for m in models}
    judges = {"the cheerful": {"spec": "x:y", "independent": False, "win_rate": rates}}
    result = {
        "judge": "the cheerful", "judges": judges, "reference": "sft", "models": lines,
        "users": len(set(users)),
        "win_rate": rates, "win_rate_by_reward_model": {}, "win_rate_shorter": rates,
        "collapse": collapse_of(lines, "ppo", "sft", {"strict_share": 0.6, "tie": 0.3}),
        "seconds": {"evaluate": 1.0},
    }  # fmt: skip
    write_report(tmp_path, result, answers)
    return (tmp_path / "report.md").read_text().splitlines()


def test_the_first_sentence_on_a_collapse_is_that_it_is_no_win(tmp_path, capsys):
    lines = report_of(tmp_path, kl=23.0)
    said = capsys.readouterr().out
    assert lines[0].startswith("# ") and lines[1] == ""
    first = lines[2].replace("\\", "")
    assert first.startswith("**The win rate of ppo against sft (100.0 %")
    for why in ("is not to be believed: KL from sft is 23.00 nats, above 7", "distinct-2 is 0.",
                "fit to the prompt is 0.25 of sft's, below 0.75"):  # fmt: skip
        assert why in first and why in said
    assert "beats" not in said and "beats" not in "\n".join(lines)
    # before which step failed, which says why in its own words
    verdict = lines[: lines.index("## Which step failed")]
    checks = [text for text in verdict if text.startswith("- ")]
    assert [text.endswith("DOES NOT HOLD") for text in checks] == [True, True, True, False, False]


def test_a_win_that_holds_is_one_and_the_terminal_says_where_to_go_on(tmp_path, capsys):
    lines = report_of(tmp_path, kl=2.0, column="sft", fit=7.0)
    assert lines[2].replace("\\", "").startswith("**ppo beats sft: 100.0 %")
    said = capsys.readouterr().out
    end = said.splitlines()
    # what stands before it: test_terminal.py
    assert end[-1].startswith("talk to it: ")
    assert end[-1].endswith("recipes/chat.py --models sft=out/sft 'ppo=out/p p'")
    assert end[-2] == f"report: {tmp_path / 'report.html'}"
    table = [text.split() for text in end if "by its chat template" in text]
    assert [row[0] for row in table] == ["sft", "ppo"]
    assert "a tie: scores less than 0.3 apart" in said and "logprob:MODEL" in said


def test_one_user_is_no_win(tmp_path):
    """Of one cluster the bootstrap's interval is a point, which lies above anything below it."""
    first = report_of(tmp_path, kl=2.0, column="sft", fit=7.0, users=1)[2].replace("\\", "")
    assert "of one user: no interval" in first and "beats" not in first
