"""Rankings -> comparisons: one ranking is one row, as the paper's reward model takes them.

    python -m data_prep.comparisons --input rankings.jsonl --output_dir comparisons/

Writes `{train,validation}.jsonl` (`prompt`, `completions`, `ranks` and what rode along; paper,
section 3.5), `report.json` and a dataset card. Rankings that say nothing (one completion, or all
tied) are counted and left out. Rankings of one user, or else of one prompt, are all in one split.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from data_prep.formats.identifiers import identifier_of
from instruct.command.commands import Parser, command
from instruct.files import UserError, load_rows, write_json, write_rows
from instruct.run.data_runs import CHANGED_TOO, add_overwrite, check_replaces, record_of_data
from instruct.run.folders import atomic_folder, claim
from instruct.run.run_record import write_record
from instruct.tokens import as_messages, as_text

# what earlier versions wrote, and the keys of their report.json
OURS = {
    "names": ("train.jsonl", "validation.jsonl", "report.json", "README.md", "run.json"),
    "report_keys": ("in", "kept", "pairs", "removed"),
}


class Collected:
    """Rankings kept so far by split, and how many were left out for what."""

    def __init__(self, validation: float):
        self.validation = validation
        self.kept: dict[str, list[dict]] = {"train": [], "validation": []}
        self.pairs: Counter[str] = Counter()  # strict preferences, by split
        self.left_out: Counter[str] = Counter()
        self.total = 0

    def add(self, row: dict, where: str) -> None:
        self.total += 1
        why = check_ranking(row, where)
        if why:
            self.left_out[why] += 1
            return
        split = "validation" if in_validation(row, where, self.validation) else "train"
        self.pairs[split] += sum(a < b for a in row["ranks"] for b in row["ranks"])
        self.kept[split].append({**row, "prompt": as_messages(row["prompt"])})

    def labelers(self) -> list[str]:
        rows = [row for rows in self.kept.values() for row in rows]
        return sorted({str(row["labeler"]) for row in rows if row.get("labeler")})

    def report(self) -> dict:
        return {
            "in": self.total,
            "kept": {split: len(rows) for split, rows in self.kept.items()},
            "pairs": dict(self.pairs),
            "removed": dict(self.left_out),
        }


def check_ranking(row: dict, where: str) -> str | None:
    """None for a usable ranking, else why it carries no preference.

    Raises:
        UserError: not one rank for each completion (names `where`).
    """
    completions, ranks = row["completions"], row["ranks"]
    if len(completions) != len(ranks):
        raise UserError(f"{where}: completions and ranks must be two lists of one length")
    if len(completions) < 2:
        return "one_completion"
    return "all_tied" if len(set(ranks)) == 1 else None


def in_validation(row: dict, where: str, share: float) -> bool:
    """Stable split by user where known, else by prompt."""
    # by user, as prompts are: nobody is in both splits
    named = (identifier_of(row, column, where) for column in ("user_id", "prompt_id"))
    key = next(filter(None, named), None) or as_text(row["prompt"])
    # no seed: more rankings move nobody
    digest = hashlib.md5(key.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 16**8 < share


def dataset_card(report: dict, labelers: list[str]) -> str:
    """README.md whose metadata lets `load_dataset(DIR)` find the splits."""
    splits = [split for split, n in report["kept"].items() if n]
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    counts = "".join(
        f"| {s} | {report['kept'][s]} | {report['pairs'].get(s, 0)} |\n" for s in splits
    )
    left_out = ", ".join(f"{n} {why}" for why, n in report["removed"].items()) or "none"
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}"
        "task_categories:\n- reinforcement-learning\n"
        "tags:\n- instruct-recipes\n- preference\n---\n\n# Ranked outputs\n\n"
        "One row is one ranking: `prompt` (messages), `completions` (K texts), "
        "`ranks` (K, 1 = best, equal = tie).\n"
        f"Ranked by: {', '.join(labelers) or 'not recorded'}. "
        "All rankings of one user are in one split.\n\n"
        f"| split | rankings | strict pairs |\n|---|---|---|\n{counts}\n"
        f"{report['in']} in; left out because they say nothing: {left_out}.\n"
    )


def write_comparisons(collected: Collected, args: argparse.Namespace, record: dict) -> None:
    """`run.json`, the splits, `report.json` and the card, whole or not at all."""
    report = collected.report()
    with atomic_folder(args.output_dir, **OURS, changed=args.overwrite_output_dir) as beside:
        write_record(beside, {**record, "labelers": collected.labelers() or None})
        for split, rows in collected.kept.items():
            if rows:
                write_rows(beside / f"{split}.jsonl", rows)
        write_json(beside / "report.json", report)
        card = dataset_card(report, collected.labelers())
        (beside / "README.md").write_text(card, encoding="utf-8")


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="rankings: files, folders or Hub ids")
    add("--output_dir", type=Path, required=True)
    add("--validation", type=float, default=0.15, help="share of users (or prompts) held out")
    add_overwrite(parser, CHANGED_TOO)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    claim(args.output_dir)
    # before the work, not after it
    record = record_of_data("comparisons", args, {"input": args.input})
    check_replaces(args.output_dir, record, args.overwrite_output_dir, **OURS)
    collected = Collected(args.validation)
    for source in args.input:
        rows = load_rows(source, columns=["prompt", "completions", "ranks"])
        for number, row in enumerate(rows, 1):
            collected.add(row, f"{source}, row {number}")
    if not collected.kept["train"]:
        raise UserError(
            f"{', '.join(args.input)}: no ranking with a preference is left "
            f"({dict(collected.left_out)} left out)"
        )
    write_comparisons(collected, args, record)
    print(f"{args.output_dir}: {collected.report()}")


if __name__ == "__main__":
    main()
