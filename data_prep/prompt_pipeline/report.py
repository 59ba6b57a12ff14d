"""What a run says of itself: the count of every step, `report.json` and the dataset card."""

import time
from collections import Counter
from typing import Any

from instruct.plain_text import one_line

# why a row went -> the step that counts it
STEP_OF = {
    "malformed": "validate",
    "duplicate_prefix": "prefix",
    "contaminated": "exclude",
    "near_duplicate": "near",
    "pii": "pii",
    "over_user_cap": "cap",
}


class Ledger:
    """The count of every step: printed as it ends, and kept for the report."""

    def __init__(self):
        self.steps: list[dict] = []
        self.started = self.since = time.time()

    def add(self, step: str, rows_in: int, rows_out: int, note: str = "") -> None:
        now = time.time()
        removed, seconds = rows_in - rows_out, round(now - self.since, 2)
        self.since = now
        self.steps.append(
            {"step": step, "in": rows_in, "removed": removed, "out": rows_out, "seconds": seconds}
        )
        counts = f"{step:9}{rows_in:>13,} in{removed:>13,} removed{rows_out:>13,} out"
        # flush: runs are watched through pipes and log files
        print(f"{counts}{seconds:9.1f} s  {one_line(note)}".rstrip(), flush=True)

    @property
    def left(self) -> int:
        """Prompts that no step has removed so far."""
        return self.steps[-1]["out"]


def make_report(
    ledger: Ledger,
    counts: Counter[str],
    tallies: dict[str, Counter],
    splits: list[str],
    without_user: int,
    options: dict,
) -> dict[str, Any]:
    """What `report.json` holds. Raises `RuntimeError` unless in = kept + removed, step by step.

    Args:
        counts: rows by output file.
        tallies: {"request_form" and, where it was detected, "language": kept prompts by value}.
    """
    removed = {step["step"]: step["removed"] for step in ledger.steps}
    report = {
        "in": ledger.steps[0]["in"],
        "kept": ledger.left,
        "removed": {reason: removed[step] for reason, step in STEP_OF.items() if removed.get(step)},
        "splits": {name: counts[name] for name in splits},
        "without_user_id": without_user,
        **{f"{column}s": _by_count(tally) for column, tally in tallies.items()},
        "steps": ledger.steps,
        "seconds": round(time.time() - ledger.started, 2),
        "options": options,
    }
    # counted three ways: by step, by file written and by reason
    gone = report["in"] - report["kept"]
    if not gone == counts["removed"] == sum(report["removed"].values()):
        raise RuntimeError(f"counts do not add up, this is a bug in the pipeline: {report}")
    return report


def _by_count(tally: Counter) -> dict[str, int]:
    """The most frequent first; "null" last: where a rule or a detector does not know."""
    names = sorted(tally, key=lambda name: (name is None, -tally[name], name))
    return {"null" if name is None else name: tally[name] for name in names}


def dataset_card(report: dict, splits: list[str]) -> str:
    """README.md whose metadata lets `load_dataset(DIR)` find the splits (not removed.parquet)."""
    # an empty one would make `load_dataset` refuse them all
    filled = [name for name in splits if report["splits"][name]]
    files = "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in filled)
    configs = f"configs:\n- config_name: default\n  data_files:\n{files}" if filled else ""
    steps = "".join(
        f"| {s['step']} | {s['in']:,} | {s['removed']:,} | {s['out']:,} |\n"
        for s in report["steps"]
    )
    sizes = "".join(f"| {name} | {report['splits'][name]:,} |\n" for name in splits)
    languages = "".join(f"| {name} | {n:,} |\n" for name, n in report.get("languages", {}).items())
    languages = languages and f"| language | prompts |\n|---|---|\n{languages}\n"
    options = report["options"]
    return (
        # splits by name, so that removed.parquet is none
        f"---\n{configs}"
        "tags:\n- prompts\n- instruct-recipes\n---\n\n"
        "# Prompts\n\n"
        "A prompt log, cleaned and split by user as in Ouyang et al. 2022 (section 3.2) "
        "by `python -m data_prep.prompts`.\n\n"
        f"| split | prompts |\n|---|---|\n{sizes}\n"
        f"| step | in | removed | out |\n|---|---|---|---|\n{steps}\n"
        f"{languages}"
        "`dup_count`: how many prompts of the log this one stands for. "
        "`request_form`: how it asks (direct, few_shot, continuation; null where the prompt is in "
        "a language that its rules do not read).\n"
        f"Personal information: `--pii {options['pii']}` on splits: {options['pii_splits']}. "
        "Names and addresses are found only by `--pii_model`.\n"
        "`removed.parquet` has every removed row with its reason.\n"
    )
