"""Demonstrations: answers that people wrote, as TRL's conversational prompt-completion rows.

    python -m data_prep.demonstrations --input answers.jsonl --prompts prompts/ \\
        --output_dir demonstrations/

Reads rows with `prompt` and `completion` (text or messages; paper, section 3.2) or in any shape of
docs/formats.md. A row whose `prompt_id` is in `--prompts` goes to that prompt's split, so a
demonstration never comes from a test user; a row without `prompt_id` (labelers wrote both sides)
goes to train or validation by a stable hash of its prompt. Writes `{train,validation}.jsonl` with
`prompt, completion, source, category` (and `tools`, `chat_template_kwargs` of rows that have them:
the prompt is rendered with them) and `report.json` with every row accounted for and the coverage
table.

`--judge SPEC --min_score X` keeps the answers that a judge (instruct/evaluation/judges.py) likes:
in the paper, who writes demonstrations also ranks, and SFT is a step towards one taste.
`--finished` leaves out answers that do not end in a full stop, `!` or `?`.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.forms import category, coverage
from data_prep.formats.identifiers import identifier_of, text_of
from data_prep.formats.reader import read_rows
from data_prep.pii import find_pii
from instruct.checks.score_functions import scores_of
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.judges import judge_model, judge_of
from instruct.evaluation.scripted import is_finished
from instruct.files import load_rows, write_json, write_rows
from instruct.rows.row_checks import is_blank
from instruct.run.data_runs import CHANGED_TOO, add_overwrite, check_replaces, record_of_data
from instruct.run.folders import atomic_folder, claim
from instruct.run.run_record import write_record
from instruct.tokens import FOR_TEMPLATE, as_text

SPLITS = ("train", "validation")
JUDGED = 2000  # rows that a judge is asked of at once: answers of similar length share a batch
# what earlier versions wrote, and the keys of their report.json
OURS = {
    "names": ("train.jsonl", "validation.jsonl", "report.json", "run.json"),
    "report_keys": ("in", "kept", "removed", "coverage"),
}


class Collected:
    """Demonstrations kept so far by split, and how many rows were removed for what."""

    def __init__(self, splits: dict[str, str], args: argparse.Namespace):
        self.splits, self.args = splits, args
        self.kept: dict[str, list[dict]] = {split: [] for split in SPLITS}
        self.removed: Counter[str] = Counter()
        self.of_source: Counter[tuple[str, str]] = Counter()  # kept, by (source, split)
        self.total = 0
        self.used = self.made = 0  # rows that fit, and demonstrations in them: of trees, several
        self.named = 0  # rows with a prompt_id
        # those that nothing but the judge may remove yet, with their split
        self.waiting: list[tuple[dict, str]] = []
        self.judge = judge_of(args.judge, "--judge") if args.judge else None

    def read(self, source: str) -> None:
        """Keeps the rows of a source, or counts why not."""
        reading = read_rows(source, "demonstrations", **shape_of(self.args))
        self.total += reading.total
        self.used += reading.used
        self.made += len(reading.rows)
        if reading.misfits:
            self.removed["malformed"] += reading.total - reading.used
        for where, row in reading.taken():
            self.add(row, source, where)
        self.settle()

    def add(self, row: dict, source: str, where: str) -> None:
        """Keeps the row or counts why not; `where` says where in `source` it stands."""
        prompt_id = identifier_of(row, "prompt_id", where)
        self.named += prompt_id is not None
        if is_blank(row["completion"]):
            print(f"{where}: empty completion, left out")
            self.removed["malformed"] += 1
            return
        # without the folder, a test user's prompt could end up in training
        if prompt_id is not None and not self.args.prompts:
            raise UserError(f"{where} names a prompt_id; give --prompts DIR, the prompts' folder")
        # the split first: --per_source counts by it
        split = split_of(row, prompt_id, self.splits, self.args.validation)
        name = text_of(row, "source", where) or Path(source).stem
        why = self._why_removed(row, name, split)
        if why:
            self.removed[why] += 1
            return
        row = as_demonstration(row, name, text_of(row, "category", where))
        if self.judge is None:
            return self.keep(row, split)
        self.waiting.append((row, split))
        if len(self.waiting) == JUDGED:
            self.settle()

    def keep(self, row: dict, split: str) -> None:
        self.of_source[row["source"], split] += 1
        self.kept[split].append(row)

    def settle(self) -> None:
        """Asks the judge about those who wait for it."""
        if not self.waiting:
            return
        prompts = [row["prompt"] for row, _ in self.waiting]
        texts = [as_text(row["completion"]) for row, _ in self.waiting]
        rows = [row for row, _ in self.waiting]
        # a user's own function takes what it names
        taken = FOR_TEMPLATE if judge_model(self.args.judge) else ()
        columns = {key: [row.get(key) for row in rows] for key in taken}
        scores = scores_of(self.judge, f"--judge {self.args.judge}", prompts, texts, **columns)
        for (row, split), score in zip(self.waiting, scores, strict=True):
            if score < self.args.min_score:
                self.removed["below_min_score"] += 1
            elif self._is_full(row["source"], split):
                self.removed["over_per_source"] += 1
            else:
                self.keep(row, split)
        self.waiting = []

    def _why_removed(self, row: dict, source: str, split: str | None) -> str | None:
        args, completion = self.args, as_text(row["completion"])
        if split is None:
            return "prompt_not_in_train_or_validation"
        if not args.min_words <= len(completion.split()) <= args.max_words:
            return "length"
        if args.finished and not is_finished(completion):
            return "unfinished"
        # again: labelers may put into answers what the prompts were searched for
        texts = (completion, as_text(row["prompt"]))
        if any(find_pii(text, reserved=False) for text in texts):
            return "pii"
        return "over_per_source" if self._is_full(source, split) else None

    def _is_full(self, source: str, split: str) -> bool:
        most = self.args.per_source
        if not most:
            return False
        return self.of_source[source, split] >= (most if split == "train" else most // 5)


def is_empty(file: Path) -> bool:
    """Whether it is a Parquet file without rows; what is none is told by who reads it."""
    try:
        return file.is_file() and not pq.read_metadata(file).num_rows
    except pa.ArrowException:
        return False


def split_of(
    row: dict, prompt_id: str | None, splits: dict[str, str], validation: float
) -> str | None:
    """The prompt's split, None where it is in neither; by hash where a row names no prompt."""
    if prompt_id is not None:
        return splits.get(prompt_id)
    prompt = as_text(row["prompt"]).encode("utf-8", "replace")
    # the prompt alone: two answers to one prompt stay together
    digest = hashlib.md5(prompt, usedforsecurity=False).hexdigest()
    return "validation" if int(digest[:8], 16) / 16**8 < validation else "train"


def splits_of_prompts(folder: Path | None) -> dict[str, str]:
    """{id of a prompt: its split} in an output folder of `data_prep.prompts`, test left out."""
    splits: dict[str, str] = {}
    if folder:
        for split in SPLITS:
            file = folder / f"{split}.parquet"
            # few users may leave a split empty
            if is_empty(file):
                continue
            for row in load_rows(file, columns=["id"]).select_columns(["id"]):
                splits[identifier_of(row, "id", str(file))] = split
    return splits


def as_demonstration(row: dict, source: str, said: str | None) -> dict:
    """One row of the output, in TRL's conversational prompt-completion form.

    Args:
        said: the category that the row says it has.
    """
    prompt = row["prompt"]
    completion = as_text(row["completion"]).strip()
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": completion}],
        "source": source,
        "category": said or category(prompt[-1]["content"]),
        # other columns are nothing that a later step reads
        **{key: row[key] for key in FOR_TEMPLATE if row.get(key) is not None},
    }


def write_demonstrations(collected: Collected, record: dict) -> None:
    """`run.json`, `{train,validation}.jsonl` and `report.json`, whole or not at all."""
    args = collected.args
    report = {
        "in": collected.total,
        "kept": {split: len(rows) for split, rows in collected.kept.items()},
        "removed": dict(collected.removed),
        "coverage": coverage(collected.kept["train"]),
    }
    if collected.made != collected.used:
        # so that rows in can be told from what is counted above
        report["rows"] = {"used": collected.used, "made": collected.made}
    with atomic_folder(args.output_dir, **OURS, changed=args.overwrite_output_dir) as beside:
        write_record(beside, record)
        for split, rows in collected.kept.items():
            if rows:
                write_rows(beside / f"{split}.jsonl", rows)
        write_json(beside / "report.json", report)


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    rows = "answers: files, folders or Hub ids"
    add("--input", nargs="+", required=True, help=rows)
    prompts = "output folder of data_prep.prompts, for rows with prompt_id"
    add("--prompts", type=Path, help=prompts)
    add("--output_dir", type=Path, required=True, help="where both splits are written")
    add("--min_words", type=int, default=1, help="fewest words of a completion")
    add("--max_words", type=int, default=10_000, help="most words of a completion")
    share = "share of rows without prompt_id for validation"
    add("--validation", type=float, default=0.05, help=share)
    most = "at most this many training rows of one source, a fifth of it for validation"
    add("--per_source", type=int, help=most)
    judge = "who scores the answers: scripted, scripted:MODEL, reward:PATH, logprob:MODEL, or "
    add("--judge", help=f"{judge}module:function; with --min_score")
    add("--min_score", type=float, help="the lowest score by --judge to keep")
    add("--finished", action="store_true", help="keep only answers that end in . ! or ?")
    add_shape_flags(parser)
    add_overwrite(parser, CHANGED_TOO)
    return parser


def check_judge(args: argparse.Namespace) -> None:
    """Raises `UserError` where a judge has no bar, or a bar has no judge."""
    if args.judge and args.min_score is None:
        raise UserError(
            f"--judge {args.judge} without --min_score does nothing; give the lowest score to keep"
        )
    if args.min_score is not None and not args.judge:
        raise UserError(
            f"--min_score {args.min_score:g} without --judge does nothing; say who scores"
        )


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_judge(args)
    claim(args.output_dir)
    # before the work, not after it
    data, asked = {"input": args.input, "prompts": args.prompts}, judge_model(args.judge)
    record = record_of_data("demonstrations", args, data, {"judge": asked} if asked else None)
    check_replaces(args.output_dir, record, args.overwrite_output_dir, **OURS)
    collected = Collected(splits_of_prompts(args.prompts), args)
    for source in args.input:
        collected.read(source)
    if args.prompts and not collected.named:
        print(f"no row has a prompt_id, so --prompts {args.prompts} has decided nothing")
    train, validation = (len(collected.kept[split]) for split in SPLITS)
    if not train and not validation:
        raise UserError(
            f"{', '.join(args.input)}: no demonstration is left "
            f"(removed: {dict(collected.removed)})"
        )
    write_demonstrations(collected, record)
    if not train:
        print(f"{args.output_dir}: none to train on; more rows or a lower --validation give some")
    if not validation:
        print(
            f"{args.output_dir}: none for validation, so SFT has nothing to evaluate on; more rows "
            "or a higher --validation give some"
        )
    print(f"{args.output_dir}: {train} demonstrations to train on, {validation} for validation")
    if collected.removed:
        told = ", ".join(f"{count} {reason}" for reason, count in collected.removed.items())
        print(f"{args.output_dir}: left out {told} (report.json)")


if __name__ == "__main__":
    main()
