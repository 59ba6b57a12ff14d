"""Which step failed? Rules over what a run wrote, each a function with its threshold beside it.

    found = diagnose(run_dir, report)      report: as evaluate.py writes it, or {}

The first broken step comes first: what is wrong in it spoils those after it, so it is what to mend
first. A rule that has nothing to look at is not "fine": it is named with what is missing.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from instruct.evaluation.diagnosis import ppo_rules, ranking_rules, reward_rules, sft_rules
from instruct.evaluation.diagnosis.run import STEPS, Finding, NoData, Run
from instruct.plain_text import markdown_text

RULES: list[Callable[[Run], Finding | None]] = [
    sft_rules.sft_skipped,
    sft_rules.sft_did_not_learn,
    sft_rules.answers_never_end,
    sft_rules.answers_end_at_once,
    ranking_rules.samples_truncated,
    ranking_rules.few_preferences,
    ranking_rules.labels_contradict,
    reward_rules.reward_at_chance,
    reward_rules.reward_no_better_than_length,
    ppo_rules.policy_never_moved,
    ppo_rules.kl_ran_away,
    ppo_rules.entropy_gone,
    ppo_rules.one_phrase,
    ppo_rules.answers_do_not_fit,
    ppo_rules.over_optimised,
]
# a step in a sentence
SPOKEN = {
    "sft": "SFT (step 1)",
    "samples": "the outputs to rank (step 2)",
    "rankings": "the rankings (step 2)",
    "reward": "the reward model (step 2)",
    "ppo": "PPO (step 3)",
}


def examine(run_dir: str | Path | None, report: dict, trained: Iterable[str] | None = None) -> dict:
    """All rules on one run.

    Args:
        run_dir: a folder with prompts/ demonstrations/ sft/ samples.jsonl rankings.jsonl
            comparisons/ reward/ ppo/, any of them missing; None: the report alone.
        report: what `evaluate.py` found, with what `run_files.collect_run` adds; may be empty.
        trained: `run_files.evaluated_steps`, the steps that made what is reported on; default all.

    Returns what goes into `report.json`:
        diagnosis: [{"rule", "step", "found", "evidence", "remedy"}], the first broken step first.
        diagnosis_rules: {"checked": [rule], "not_checked": {rule: what is missing}}.
    """
    run = Run(Path(run_dir) if run_dir is not None else None, report, trained)
    found, checked, missing = [], [], {}
    for rule in RULES:
        try:
            finding = rule(run)
        except NoData as error:
            missing[rule.__name__] = str(error)
            continue
        checked.append(rule.__name__)
        if finding is not None:
            found.append({"rule": rule.__name__, **finding._asdict()})
    # stable: within a step in the order of the rules
    found.sort(key=lambda entry: STEPS.index(entry["step"]))
    rules = {"checked": checked, "not_checked": missing}
    return {"diagnosis": found, "diagnosis_rules": rules}


def diagnose(
    run_dir: str | Path | None, report: dict, trained: Iterable[str] | None = None
) -> list[dict]:
    """What went wrong in a run: `examine`'s `diagnosis`."""
    return examine(run_dir, report, trained)["diagnosis"]


def lines(findings: list[dict], rules: dict | None = None) -> list[str]:
    """The section of `report.md`.

    Args:
        findings: `diagnosis`.
        rules: `diagnosis_rules`; None: nothing is said of what was looked at.
    """
    told = ["## Which step failed", ""]
    if findings:
        first = findings[0]["step"]
        told += [f"**What to mend first: {SPOKEN[first]}.** What comes after it rests on it.", ""]
        told += [_line(entry) for entry in findings]
    else:
        told.append(_nothing(rules))
    if findings and rules and rules["not_checked"]:
        told += ["", f"Not checked: {_missing(rules)}."]
    return [*told, ""]


def _line(entry: dict) -> str:
    evidence = ", ".join(f"{name} {_shown(value)}" for name, value in entry["evidence"].items())
    return (
        f"- {SPOKEN[entry['step']]}: {markdown_text(entry['found'])}. Remedy: "
        f"{markdown_text(entry['remedy'])} (rule {_spoken(entry['rule'])}; "
        f"{markdown_text(evidence)})."
    )


def _nothing(rules: dict | None) -> str:
    if rules is None:
        return "Nothing wrong was found."
    if not rules["checked"]:
        return f"No rule had anything to look at: {_missing(rules)}."
    checked = ", ".join(map(_spoken, rules["checked"]))
    left = f"; not checked: {_missing(rules)}" if rules["not_checked"] else ""
    return f"Nothing wrong was found by the rules that could be checked: {checked}{left}."


def _missing(rules: dict) -> str:
    """The rules without data, those that lack the same together."""
    by_reason: dict[str, list[str]] = {}
    for rule, why in rules["not_checked"].items():
        by_reason.setdefault(why, []).append(_spoken(rule))
    return "; ".join(
        f"{', '.join(names)} ({markdown_text(why)})" for why, names in by_reason.items()
    )


def _spoken(rule: str) -> str:
    return rule.replace("_", " ")


def _shown(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
