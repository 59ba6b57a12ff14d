"""Which step failed: the rules on files as a run writes them. Runs that are really broken, and a
healthy one, are in tests/recipes/test_diagnosed.py.
"""

import json
from pathlib import Path

import pytest
from conftest import write_jsonl

from instruct.evaluation.diagnosis import ppo_rules as ppo
from instruct.evaluation.diagnosis import sft_rules as sft
from instruct.evaluation.diagnosis.bounds import BOUNDS
from instruct.evaluation.diagnosis.diagnose import RULES, SPOKEN, diagnose, examine, lines
from instruct.evaluation.diagnosis.run import LAST, STEPS
from instruct.files import write_json
from instruct.trainers.ppo import callbacks
from instruct.trainers.ppo.config import SharedBasePPOConfig

GOOD = {
    "objective/kl": 2.0,
    "objective/scores": 1.0,
    "objective/length": 14.0,
    "objective/eos_rate": 0.9,
    "objective/distinct2": 0.8,
    "policy/entropy_avg": 1.5,
}
COLLAPSE = {
    "policy": "ppo", "reference": "sft", "kl": 3.0, "distinct2_ratio": 0.9, "fit_ratio": 0.9,
    "fit_missing": None, "strict_share": 0.6, "tie": 0.3,
}  # fmt: skip


def write_log(folder: Path, step: str, entries: list[dict]) -> None:
    numbered = [{"step": 2 * n, **entry} for n, entry in enumerate(entries)]
    write_json(folder / step / "trainer_state.json", {"log_history": numbered})


def rollouts(count: int = 8, **last) -> list[dict]:
    """A healthy run whose last half has other values."""
    first = {**GOOD, "objective/kl": 0.0}
    return [first, *[GOOD] * (count // 2 - 1), *[{**GOOD, **last}] * (count - count // 2)]


def rules(folder: Path | None, report: dict | None = None, **more) -> list[str]:
    return [entry["rule"] for entry in diagnose(folder, report or {}, **more)]


def test_limits_are_the_watchdogs():
    """As its flags are no part of what a run records, the defaults stand for them."""
    limits = SharedBasePPOConfig(output_dir="unused", report_to="none")
    assert ppo.MAX_KL == limits.max_kl and ppo.MIN_ENTROPY == limits.min_entropy
    assert ppo.MIN_DISTINCT2_RATIO == limits.min_distinct2_ratio
    assert sft.MIN_LENGTH == limits.min_length and LAST == limits.watchdog_patience
    # and what is said of them
    assert callbacks.BOUNDS is BOUNDS


def test_every_step_can_be_spoken_of():
    assert set(SPOKEN) == set(STEPS)
    names = [rule.__name__ for rule in RULES]
    assert len(set(names)) == len(names) and all(rule.__doc__ for rule in RULES)


def test_nothing_to_look_at_is_not_fine(tmp_path):
    for folder in (tmp_path, tmp_path / "gone", None):
        found = examine(folder, {})
        assert found["diagnosis"] == [] and found["diagnosis_rules"]["checked"] == []
        assert set(found["diagnosis_rules"]["not_checked"]) == {rule.__name__ for rule in RULES}
        text = "\n".join(lines([], found["diagnosis_rules"]))
        assert "No rule had anything to look at" in text


def test_what_cannot_be_read_is_missing(tmp_path):
    for name in ("sft/trainer_state.json", "ppo/trainer_state.json", "reward/metrics.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('{"log_history": [')
    (tmp_path / "ppo" / "run.json").write_text("half")
    (tmp_path / "samples.jsonl").write_text("[1]\n")
    (tmp_path / "rankings.jsonl").write_text('{"prompt": 1}\n')
    found = examine(tmp_path, {})
    assert found["diagnosis"] == [] and found["diagnosis_rules"]["checked"] == []
    missing = found["diagnosis_rules"]["not_checked"]
    assert "cannot be read" in missing["sft_did_not_learn"]
    assert "cannot be read" in missing["labels_contradict"]


################
# SFT
################


@pytest.mark.parametrize(
    ("losses", "broken"),
    [
        ([4.0, 3.2], False),
        ([4.0, 3.999], True),
        ([4.0, 4.5], True),
        # overfitting, as the paper's: the first epochs have learned
        ([4.0, 3.2, 3.9, 4.4], False),
    ],
)
def test_held_out_loss_has_to_fall(tmp_path, losses, broken):
    write_log(tmp_path, "sft", [{"eval_loss": loss} for loss in losses])
    assert rules(tmp_path) == ["sft_did_not_learn"] * broken


def test_a_loss_that_was_not_measured_before_training_says_nothing(tmp_path):
    write_log(tmp_path, "sft", [{"loss": 5.0}, {"eval_loss": 3.0}, {"eval_loss": 3.5}])
    assert (
        "before and after"
        in examine(tmp_path, {})["diagnosis_rules"]["not_checked"]["sft_did_not_learn"]
    )


def write_base(folder: Path, step: str, name: str, path: str | None = None, sha="x") -> None:
    base = {"name": name, "sha256": sha, **({"path": path} if path else {})}
    write_json(folder / step / "run.json", {"step": step, "base": base})


def test_what_ppo_starts_from(tmp_path):
    (tmp_path / "sft" / "merged").mkdir(parents=True)
    write_base(tmp_path, "sft", "Hub/base", sha="base")
    write_base(tmp_path, "reward", "/moved/sft/merged", "../sft/merged")
    assert rules(tmp_path) == []
    # the very model that SFT started from
    write_base(tmp_path, "ppo", "Hub/base", sha="base")
    (found,) = diagnose(tmp_path, {})
    assert found["rule"] == "sft_skipped" and "PPO starts from Hub/base" in found["found"]
    # one that our commands made, and that was not trained
    (tmp_path / "embedded" / "model").mkdir(parents=True)
    write_json(tmp_path / "embedded" / "run.json", {"step": "embedded"})
    write_base(tmp_path, "ppo", "/moved/model", "../embedded/model", sha="other")
    assert rules(tmp_path) == ["sft_skipped"]
    # of somebody else's nobody can say
    write_base(tmp_path, "ppo", "Hub/somebodys-sft", sha="other")
    assert rules(tmp_path) == []


################
# PPO
################


@pytest.mark.parametrize(
    ("last", "rule"),
    [
        ({}, None),
        ({"objective/kl": 0.01}, "policy_never_moved"),
        ({"objective/kl": 15.5}, "kl_ran_away"),
        # 256 tokens have more places to differ in
        ({"objective/kl": 40.0, "objective/length": 256.0}, None),
        ({"objective/kl": 60.0, "objective/length": 256.0}, "kl_ran_away"),
        ({"policy/entropy_avg": 0.01}, "entropy_gone"),
        ({"objective/distinct2": 0.4}, "one_phrase"),
        ({"objective/eos_rate": 0.1}, "answers_never_end"),
        ({"objective/length": 1.2}, "answers_end_at_once"),
        # a NaN is no number to hold against a bound
        ({"objective/kl": float("nan")}, None),
    ],
)
def test_bounds_of_ppo(tmp_path, last, rule):
    middle = {"objective/kl": 0.01} if rule == "policy_never_moved" else {}
    write_log(tmp_path, "ppo", [{**entry, **middle} for entry in rollouts(**last)])
    found = diagnose(tmp_path, {})
    assert [entry["rule"] for entry in found] == ([rule] if rule else [])
    if rule:
        assert found[0]["step"] == "ppo"
        known = next((b for b in BOUNDS if b.cause in found[0]["found"]), None)
        assert known is None or found[0]["remedy"] == known.remedy
        assert known is not None or rule == "policy_never_moved"


def test_what_ppo_mended_is_not_broken(tmp_path):
    entries = [{**GOOD, "objective/eos_rate": 0.1}] * 3 + [GOOD] * 3
    write_log(tmp_path, "ppo", entries)
    assert rules(tmp_path) == []
    write_log(tmp_path, "ppo", entries[:3])
    assert [(e["rule"], e["step"]) for e in diagnose(tmp_path, {})] == [
        ("answers_never_end", "sft")
    ]


def test_without_a_run_folder_the_report_says_it():
    names = {"objective/kl": "kl", "objective/scores": "reward", "objective/length": "length",
             "objective/eos_rate": "eos_rate"}  # fmt: skip
    steps = [
        {"step": n, "gold": None, "entropy": 0.1, **{names[k]: entry[k] for k in names}}
        for n, entry in enumerate(rollouts(**{"objective/kl": 20.0}))
    ]
    assert rules(None, {"ppo": {"steps": steps}}) == ["kl_ran_away", "entropy_gone"]


def test_another_models_curves_are_not_looked_at(tmp_path):
    write_log(tmp_path, "ppo", rollouts(**{"objective/kl": 20.0}))
    assert rules(tmp_path) == ["kl_ran_away"]
    assert rules(tmp_path, trained=["sft"]) == []
    missing = examine(tmp_path, {}, ["sft"])["diagnosis_rules"]["not_checked"]
    assert "none of the models that were evaluated" in missing["entropy_gone"]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"kl": 7.5}, ["kl_ran_away"]),
        ({"distinct2_ratio": 0.6}, ["one_phrase"]),
        ({"fit_ratio": 0.5}, ["answers_do_not_fit"]),
        ({"strict_share": 0.5}, ["few_preferences"]),
        ({"fit_ratio": None, "fit_missing": "give --fit_model"}, []),
    ],
)
def test_conditions_of_a_win_are_rules(change, broken):
    found = examine(None, {"collapse": {**COLLAPSE, **change}})
    assert [entry["rule"] for entry in found["diagnosis"]] == broken
    if "fit_missing" in change:
        missing = found["diagnosis_rules"]["not_checked"]
        assert missing["answers_do_not_fit"] == "give --fit_model"


################
# Over-optimisation
################


def report_of(by_judge: float, by_reward: float, people: float | None = None) -> dict:
    def rate(value: float) -> dict:
        return {"ppo_vs_sft": {"rate": value, "low": value - 0.05, "high": value + 0.05}}

    return {
        "collapse": COLLAPSE,
        "judge": "the scripted labeler",
        "win_rate": rate(by_judge),
        "win_rate_by_reward_model": rate(by_reward),
        **({"judgements": {"win_rate": rate(people)}} if people is not None else {}),
    }


@pytest.mark.parametrize(
    ("rates", "broken"),
    [
        ((0.7, 0.8), False),
        ((0.4, 0.8), True),
        ((0.4, 0.52), False),  # the reward model's own win may be chance
        ((0.4, 0.3), False),
        ((0.7, 0.8, 0.3), True),  # people say otherwise
    ],
)
def test_a_reward_models_win_that_the_judge_calls_a_loss(rates, broken):
    found = diagnose(None, report_of(*rates))
    assert [entry["rule"] for entry in found] == ["over_optimised"] * broken


def curves(gold: list[float], reward: list[float]) -> dict:
    # a little noise, so that there is a spread
    pairs = zip(gold, reward, strict=True)
    steps = [{"gold": g + 0.02 * (n % 2), "reward": r} for n, (g, r) in enumerate(pairs)]
    return {"ppo": {"steps": [{**s, "kl": 2.0 * n} for n, s in enumerate(steps)][:]}}


@pytest.mark.parametrize(
    ("gold", "broken"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], False),
        ([0.1, 0.2, 0.3, 0.8, 0.9, 0.8, 0.3, 0.2, 0.1], True),
        ([0.9, 0.9, 0.9, 0.6, 0.5, 0.4, 0.2, 0.1, 0.1], True),
        ([0.5, 0.4, 0.5, 0.5, 0.4, 0.5, 0.5, 0.4, 0.4], False),
    ],
)
def test_gold_that_falls_while_the_reward_rises(gold, broken):
    found = rules(None, curves(gold, [n / 10 for n in range(9)]))
    assert ("over_optimised" in found) == broken
    # both fall: PPO failed, but not by pleasing the reward model too much
    assert "over_optimised" not in rules(None, curves(gold, [-n / 10 for n in range(9)]))


def test_a_few_rollouts_are_no_curve():
    missing = examine(None, curves([0.9, 0.1], [0.1, 0.9]))["diagnosis_rules"]["not_checked"]
    assert "6 are needed" in missing["over_optimised"]


################
# Rankings and the reward model
################


def rows(count: int, alike: float) -> list[dict]:
    """Prompts whose three outputs two labelers ranked; this share of the prompts alike."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What of {n}?"}],
            "completions": ["a", "b", "c"],
            "ranks": [1, 2, 3] if labeler == "Ada" or n < alike * count else [3, 2, 1],
            "labeler": labeler,
        }
        for n in range(count)
        for labeler in ("Ada", "Bob")
    ]


@pytest.mark.parametrize(
    ("count", "alike", "broken"),
    [(20, 0.5, True), (20, 0.8, False), (20, 0.0, True), (3, 0.5, False)],
)
def test_labels_that_contradict_each_other(tmp_path, count, alike, broken):
    write_jsonl(tmp_path / "rankings.jsonl", rows(count, alike))
    found = examine(tmp_path, {})
    assert [e["rule"] for e in found["diagnosis"]] == ["labels_contradict"] * broken
    # three prompts are too few to say
    checked = "labels_contradict" in found["diagnosis_rules"]["checked"]
    assert checked == (count > 3)


@pytest.mark.parametrize("low", [0.3, 0.5, 0.51])
def test_an_interval_that_holds_chance(tmp_path, low):
    reward = {"accuracy": 0.6, "accuracy_low": low, "accuracy_high": 0.9, "n_pairs": 30}
    write_json(tmp_path / "reward" / "metrics.json", reward)
    expected = ["reward_at_chance"] * (low <= 0.5)
    assert rules(tmp_path) == rules(None, {"reward": reward}) == expected


################
# What is told
################


def test_the_first_broken_step_comes_first_and_what_users_wrote_is_escaped(tmp_path):
    write_log(tmp_path, "sft", [{"eval_loss": 4.0}, {"eval_loss": 4.0}])
    report = report_of(0.3, 0.9)
    report["judge"] = "<b>|judge"
    found = examine(tmp_path, report)
    assert [entry["step"] for entry in found["diagnosis"]] == ["sft", "ppo"]
    json.dumps(found, allow_nan=False)
    told = lines(found["diagnosis"], found["diagnosis_rules"])
    text = "\n".join(told)
    assert told[0] == "## Which step failed" and told[-1] == ""
    assert "**What to mend first: SFT (step 1).**" in text and "Not checked: " in text
    assert "<b>" not in text and "by &lt;b&gt;\\|judge" in text
    assert "rule over optimised; by\\_reward\\_model 0.9, by\\_judge 0.3" in text


def test_a_run_without_faults_names_what_was_checked(tmp_path):
    write_log(tmp_path, "ppo", rollouts())
    found = examine(tmp_path, {})
    assert found["diagnosis"] == []
    (line,) = [line for line in lines([], found["diagnosis_rules"]) if "Nothing wrong" in line]
    assert "kl ran away" in line.split("not checked")[0]
    assert "sft did not learn (no sft/trainer\\_state.json)" in line
