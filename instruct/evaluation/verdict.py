"""What a report says first: does the policy win, is that to be believed, and the table of the
paper's figure 1.
"""

from instruct.evaluation.collapse import Check, checks_of, is_believed
from instruct.evaluation.comparison import rate_against
from instruct.evaluation.modes import CHAT, FEW_SHOT, RAW

# how a model was asked, beside its name
ASKED = {CHAT: "by its chat template", RAW: "the bare prompt", FEW_SHOT: "after examples"}


def percent(entry: dict | None) -> str:
    """A win rate with its interval."""
    if entry is None:
        return "–"
    if entry["low"] is None:
        return f"{100 * entry['rate']:.1f} %"
    return f"{100 * entry['rate']:.1f} % [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def headline(report: dict) -> str | None:
    """The one sentence on the policy; None where there is no policy beside its reference."""
    collapse = report.get("collapse")
    if not collapse:
        return None
    policy, reference = collapse["policy"], collapse["reference"]
    entry = rate_against(report["win_rate"], policy, reference)
    found = f"{percent(entry)} by {report['judge']}"
    if not is_believed(collapse):
        broken = [check.reason() for check in checks_of(collapse) if check.holds is False]
        return (
            f"The win rate of {policy} against {reference} ({found}) is not to be believed: "
            f"{'; '.join(broken)}."
        )
    # drawn from one, the bootstrap has no spread: its interval is the rate itself
    if report["users"] < 2:
        return f"{policy} against {reference}: {found}, of one user: no interval, give more."
    if entry["low"] > 0.5:
        return f"{policy} beats {reference}: {found}."
    return f"{policy} does not beat {reference}: {found}."


def checks(report: dict) -> list[Check]:
    """The conditions of a win; none where there is no policy."""
    return checks_of(report["collapse"]) if report.get("collapse") else []


def independent(report: dict) -> str | None:
    """What a judge that nothing was trained on or filtered by says of the policy."""
    collapse = report.get("collapse")
    if not collapse:
        return None
    policy, reference = collapse["policy"], collapse["reference"]
    told = [
        f"{percent(rate_against(judge['win_rate'], policy, reference))} by {name}"
        for name, judge in report["judges"].items()
        if judge["independent"]
    ]
    if not told:
        return (
            f"{policy} against {reference} by a judge that nothing was trained on or filtered by: "
            f"not asked, add logprob:MODEL to --judge, MODEL neither {policy} nor {reference}."
        )
    return (
        f"{policy} against {reference} by a judge that nothing was trained on or filtered by: "
        f"{'; '.join(told)}."
    )


def figure_one(report: dict) -> list[list[str]]:
    """The table of the paper's figure 1, header first; empty where nothing is compared.

    Win rates against the reference and against the model named first, by the gold judge.
    """
    models = report["models"]
    first = next(iter(models), None)
    reference = report.get("reference")
    against = list(dict.fromkeys([reference if reference in models else first, first]))
    if len(models) < 2 or "win_rate" not in report:
        return []
    table = [["model", "asked", *(f"wins against {other}" for other in against)]]
    for name, model in models.items():
        rates = (rate_against(report["win_rate"], name, other) for other in against)
        table.append([name, ASKED[model.get("mode", CHAT)], *map(percent, rates)])
    return table
