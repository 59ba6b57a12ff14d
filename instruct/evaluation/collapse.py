"""Whether a win rate is to be believed: what a policy that only pleases its judge gives up.

One sentence that a labeler likes wins against everything. So a win counts only where the answers
are still near the reference's, differ from each other, and fit what was asked, and where labelers
preferred one answer to another often enough to teach anything.
"""

import json
from pathlib import Path
from typing import NamedTuple

from instruct.run.fingerprints import content_of
from instruct.run.folders import json_in, record_beside
from instruct.run.run_record import read_record

MAX_KL = 7.0  # nats per answer, from the reference
MIN_DISTINCT2 = 0.7  # of the reference's
MIN_FIT = 0.75  # of the reference's
MIN_STRICT = 0.55  # of the pairs that labelers compared


class Check(NamedTuple):
    """One condition of a win.

    Attributes:
        key: its name in `report.json`.
        what: its name in a sentence.
        value: what was measured; None where it was not.
        bar: what the value is held against.
        missing: why it was not measured.
        unit: what the numbers are of, after each.
        is_ceiling: the value may not be above the bar; else not below.
    """

    key: str
    what: str
    value: float | None
    bar: float
    missing: str
    unit: str = ""
    is_ceiling: bool = False

    @property
    def holds(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return self.value <= self.bar if self.is_ceiling else self.value >= self.bar

    def sentence(self) -> str:
        """What was found, and what is asked for."""
        side = "at most" if self.is_ceiling else "at least"
        asked = f"{side} {self.bar:g}"
        if self.value is None:
            return f"{self.what}: not measured ({self.missing}); asked for: {asked}{self.unit}"
        found = f"{self.what}: {self.value:.2f}{self.unit}, {asked} asked for"
        return f"{found}: {'holds' if self.holds else 'DOES NOT HOLD'}"

    def reason(self) -> str:
        """Why it does not hold."""
        side = "above" if self.is_ceiling else "below"
        return f"{self.what} is {self.value:.2f}{self.unit}, {side} {self.bar:g}{self.unit}"


def rankings_of(run_dir: Path | None) -> dict:
    """`strict_share` of the pairs that labelers compared, and `tie`, the width of theirs.

    As `data_prep.comparisons` and `data_prep.label` have noted them; None where they have not.
    """
    found = {"strict_share": None, "tie": None}
    folder = run_dir / "comparisons" if run_dir is not None else None
    if folder is None or not (folder / "report.json").is_file():
        return found
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    # earlier versions did not count the tied pairs
    if report.get("all_pairs"):
        found["strict_share"] = sum(report["pairs"].values()) / report["all_pairs"]
    source = ((read_record(folder) or {}).get("data") or {}).get("input") or {}
    # by the name that was typed; else where demo.sh puts it
    places = [Path(source.get("name", "")), run_dir / Path(source.get("name", "")).name]
    notes = (record_beside(place) for place in places if place.name)
    note = next((file for file in notes if file.is_file()), None)
    if note is not None:
        found["tie"] = (json_in(note).get("flags") or {}).get("tie")
    return found


def aimed_at(run_dir: Path | None) -> set[str]:
    """Models whose log-probability the run filtered its data by, or learned from; by content."""
    if run_dir is None:
        return set()
    filtered, learned = (read_record(run_dir / step) or {} for step in ("demonstrations", "ppo"))
    by = str((filtered.get("flags") or {}).get("judge"))
    found = [
        (filtered.get("models") or {}).get("judge") if by.startswith("logprob:") else None,
        (learned.get("adapters") or {}).get("reward_funcs logprob"),
    ]
    return {content_of(model) for model in found if model is not None}


def collapse_of(
    models: dict[str, dict], policy: str, reference: str, rankings: dict
) -> dict | None:
    """What a policy gave up to win against the reference: the ratios of its measures to theirs.

    Args:
        models: each model's line, by `comparison.summarize`.
        rankings: by `rankings_of`.

    Returns None where one of the two is not there.
    """
    if policy not in models or reference not in models or policy == reference:
        return None
    ours, theirs = models[policy], models[reference]
    fits = [(model.get("fit") or {}).get("mean") for model in (ours, theirs)]
    if fits[1] is not None and theirs["fit"].get("low", fits[1]) <= 0:
        # a share of what may be nothing says nothing
        fits[1] = 0.0
    return {
        "policy": policy,
        "reference": reference,
        "kl": ours.get(f"kl_from_{reference}"),
        "distinct2_ratio": _ratio(ours["distinct2"], theirs["distinct2"]),
        "fit_ratio": _ratio(*fits),
        "fit_missing": _why_no_ratio(*fits, reference),
        **rankings,
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    # of a reference that says nothing of its prompts there is no share to keep
    if ours is None or theirs is None or theirs <= 0:
        return None
    return ours / theirs


def _why_no_ratio(ours: float | None, theirs: float | None, reference: str) -> str | None:
    if ours is None or theirs is None:
        return "give --fit_model"
    return f"the answers of {reference} fit no better than others" if theirs <= 0 else None


def checks_of(collapse: dict) -> list[Check]:
    """The conditions of a win, in the order they are told."""
    reference = collapse["reference"]
    of = f" of {reference}'s"
    tie = collapse["tie"]
    width = f" (a tie: scores less than {tie:g} apart)" if tie is not None else ""
    return [
        Check(
            "kl",
            f"KL from {reference}",
            collapse["kl"],
            MAX_KL,
            "the two are given other prompts",
            " nats",
            is_ceiling=True,
        ),
        Check(
            "distinct2_ratio",
            "distinct-2",
            collapse["distinct2_ratio"],
            MIN_DISTINCT2,
            f"{reference} says no two words",
            of,
        ),
        Check(
            "fit_ratio",
            "fit to the prompt",
            collapse["fit_ratio"],
            MIN_FIT,
            collapse["fit_missing"],
            of,
        ),
        Check(
            "strict_share",
            f"strict pairs in the rankings{width}",
            collapse["strict_share"],
            MIN_STRICT,
            "the run has no rankings, or they were not counted",
        ),
    ]


def is_believed(collapse: dict) -> bool:
    """Whether none of the conditions that were measured is broken."""
    return all(check.holds is not False for check in checks_of(collapse))
