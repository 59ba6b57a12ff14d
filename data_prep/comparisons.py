"""Rankings -> comparisons: one ranking is one row, as the paper's reward model takes them.

    python -m data_prep.comparisons --input rankings.jsonl --output_dir comparisons/

Rankings are ours, or preferences in any shape of formats/registry.py. Writes
`{train,validation}.jsonl` (`prompt`, `completions`, `ranks` and what rode along; paper, section
3.5), `report.json` and a dataset card. Rankings that say nothing (one completion, or all tied) and
rows of other shapes that are none are counted and left out. Rankings of one user, or else of one
prompt, are all in one split.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from data_prep.formats.flags import add_shape_flags
from data_prep.formats.identifiers import identifier_of
from data_prep.formats.rankings import read_rankings
from data_prep.formats.reader import Reading
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.files import write_json, write_rows
from instruct.ranking import equal_text_pairs, why_no_preference
from instruct.run.data_runs import CHANGED_TOO, add_overwrite, check_replaces, record_of_data
from instruct.run.folders import atomic_folder, claim
from instruct.run.run_record import write_record
from instruct.tokens import as_text

# what earlier versions wrote, and the keys of their report.json
OURS = {
    "names": ("train.jsonl", "validation.jsonl", "report.json", "README.md", "run.json"),
    "report_keys": ("in", "kept", "pairs", "removed"),
}


class Collected:
    """Rankings kept so far by split, and how many were left out for what.

    Rows in = kept rankings + left out, where each row is one ranking. Where a row holds several (a
    tree), or several rows are one, `rows` says how many were read and used.
    """

    def __init__(self, validation: float):
        self.validation = validation
        # of a million rows only the table is held
        self.sources: list[tuple[Dataset, list[str | None]]] = []  # the split of each row
        self.kept: Counter[str] = Counter(train=0, validation=0)
        self.pairs: Counter[str] = Counter()  # strict preferences, by split
        self.all_pairs = 0  # of all rankings, those that are left out among them
        self.equal_texts = 0  # pairs that are one text twice
        self.left_out: Counter[str] = Counter()
        self.misfits: Counter[str] = Counter()  # rows that are no ranking, by why
        self.read_as: dict[str, str] = {}
        self.labelers: set[str] = set()
        self.total = 0
        self.used = 0

    def add_all(self, reading: Reading) -> None:
        """All rankings of a source, and its rows that are none."""
        self.read_as[reading.source] = reading.format.name
        self.total += reading.total
        self.used += reading.used
        self.misfits.update(reading.misfits)
        # every row with the columns of all, each of one type
        rows, places = reading.dataset(), [place for place, _ in reading.rows]
        reading.rows.clear()
        splits = [self.add(row, place) for row, place in zip(rows, places, strict=True)]
        self.sources.append((rows, splits))

    def add(self, row: dict, where: str) -> str | None:
        """The split that a ranking is in; None where it is left out."""
        count = len(row["completions"])
        self.all_pairs += count * (count - 1) // 2
        self.equal_texts += equal_text_pairs(row["completions"])
        why = why_no_preference(row)
        if why:
            self.left_out[why] += 1
            return None
        split = "validation" if in_validation(row, where, self.validation) else "train"
        self.pairs[split] += sum(a < b for a in row["ranks"] for b in row["ranks"])
        self.kept[split] += 1
        if row.get("labeler"):
            self.labelers.add(str(row["labeler"]))
        return split

    def of_split(self, split: str) -> Iterator[dict]:
        for rows, splits in self.sources:
            yield from (row for row, its in zip(rows, splits, strict=True) if its == split)

    def report(self) -> dict:
        unfit = {"misfit": self.total - self.used} if self.total > self.used else {}
        return {
            "in": self.total,
            "kept": dict(self.kept),
            "pairs": dict(self.pairs),
            "all_pairs": self.all_pairs,
            "removed": dict(self.left_out) | unfit,
            "rows": {"used": self.used, "misfits": dict(self.misfits)},
            "read_as": self.read_as,
            "equal_texts": self.equal_texts,
        }


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
        f"{report['in']} rows in; left out because they say nothing or are none: {left_out}.\n"
    )


def write_comparisons(collected: Collected, args: argparse.Namespace, record: dict) -> None:
    """`run.json`, the splits, `report.json` and the card, whole or not at all."""
    report = collected.report()
    with atomic_folder(args.output_dir, **OURS, changed=args.overwrite_output_dir) as beside:
        write_record(beside, {**record, "labelers": sorted(collected.labelers) or None})
        for split, count in collected.kept.items():
            if count:
                write_rows(beside / f"{split}.jsonl", collected.of_split(split))
        write_json(beside / "report.json", report)
        card = dataset_card(report, sorted(collected.labelers))
        (beside / "README.md").write_text(card, encoding="utf-8")


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="rankings: files, folders or Hub ids")
    add("--output_dir", type=Path, required=True, help="where both splits are written")
    add("--validation", type=float, default=0.15, help="share of users (or prompts) held out")
    add_shape_flags(parser)
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
        collected.add_all(read_rankings(source, format=args.format, columns=args.columns))
    if not collected.kept["train"]:
        held_out = collected.kept["validation"]
        why = f"all {held_out} are held out; give more, or a lower --validation"
        raise UserError(
            f"{', '.join(args.input)}: no ranking with a preference is left "
            f"({why if held_out else f'{dict(collected.left_out)} left out'})"
        )
    write_comparisons(collected, args, record)
    report = collected.report()
    kept = ", ".join(f"{count} {split}" for split, count in report["kept"].items())
    strict = f"{sum(report['pairs'].values())} of {report['all_pairs']} pairs with a preference"
    left_out = dict(report["removed"])
    if report["equal_texts"]:
        left_out["pairs of one text twice"] = report["equal_texts"]
    told = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "none"
    print(f"{args.output_dir}: rankings: {kept}; {strict}; left out: {told}")
    if args.validation and not report["kept"]["validation"]:
        print(
            f"{args.output_dir}: none is held out: of few users (or prompts) --validation "
            f"{args.validation:g} may draw none; recipes/reward.py then holds out its "
            "--eval_fraction of the prompts"
        )


if __name__ == "__main__":
    main()
