"""Demonstrations: answers that people wrote, as TRL's conversational prompt-completion rows (paper, section 3.2).

    python -m data_prep.demonstrations --input answers.jsonl --prompts prompts/ --output_dir demonstrations/

Reads rows with `prompt` and `completion` (text or messages). A row whose `prompt_id` is in `--prompts` goes to that
prompt's split, so a demonstration never comes from a test user; a row without `prompt_id` (labelers wrote both sides)
goes to train or validation by a stable hash of its prompt. Writes `{train,validation}.jsonl` with
`prompt, completion, source, category` and `report.json` with every row accounted for and the coverage table.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from data_prep.formats.forms import category, coverage
from data_prep.pii import find_pii
from instruct.files import UserError, atomic_folder, command, load_rows, write_json, write_rows
from instruct.tokens import as_messages, as_text


def split_of(row: dict, splits: dict[str, str], validation: float) -> str | None:
    """Split of a row: its prompt's, or by hash where no prompt of the log is named; None where that was removed."""
    if row.get("prompt_id"):
        return splits.get(row["prompt_id"])
    digest = hashlib.md5(
        as_text(row["prompt"]).encode("utf-8", "replace"), usedforsecurity=False
    ).hexdigest()
    return "validation" if int(digest[:8], 16) / 16**8 < validation else "train"


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="files, folders or Hub ids with prompt and completion",
    )
    parser.add_argument(
        "--prompts", type=Path, help="output folder of data_prep.prompts, for rows with prompt_id"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--min_words", type=int, default=1, help="fewest words of a completion")
    parser.add_argument("--max_words", type=int, default=10_000, help="most words of a completion")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.05,
        help="share of rows without prompt_id for validation",
    )
    parser.add_argument(
        "--per_source",
        type=int,
        help="at most this many training rows of one source, a fifth of it for validation",
    )
    args = parser.parse_args(argv)

    splits = {}
    if args.prompts:
        for split in ("train", "validation"):
            splits |= dict.fromkeys(
                load_rows(args.prompts / f"{split}.parquet", columns=["id"])["id"], split
            )
    kept: dict[str, list[dict]] = {"train": [], "validation": []}
    removed, total, per_source = Counter(), 0, Counter()
    for source in args.input:
        for number, row in enumerate(load_rows(source, columns=["prompt", "completion"]), 1):
            total += 1
            if not row["prompt"] or not row["completion"] or not as_text(row["completion"]).strip():
                print(f"{source}, row {number}: empty prompt or completion, left out")
                removed["malformed"] += 1
                continue
            if row.get("prompt_id") and not args.prompts:
                raise UserError(
                    f"{source}, row {number} names a prompt_id; give --prompts DIR, the prompts' folder"
                )
            split = split_of(row, splits, args.validation)
            words = len(as_text(row["completion"]).split())
            name = row.get("source") or Path(source).stem
            if split is None:
                removed["prompt_not_in_train_or_validation"] += 1
            elif not args.min_words <= words <= args.max_words:
                removed["length"] += 1
            elif find_pii(as_text(row["completion"])) or find_pii(as_text(row["prompt"])):
                removed["pii"] += 1
            elif args.per_source and per_source[name, split] >= args.per_source // (
                1 if split == "train" else 5
            ):
                removed["over_per_source"] += 1
            else:
                per_source[name, split] += 1
                prompt = as_messages(row["prompt"])
                kept[split].append(
                    {
                        "prompt": prompt,
                        "completion": [
                            {"role": "assistant", "content": as_text(row["completion"]).strip()}
                        ],
                        "source": name,
                        "category": row.get("category") or category(prompt[-1]["content"]),
                    }
                )
    if not kept["train"]:
        raise UserError(
            f"{', '.join(args.input)}: no demonstration is left for training (removed: {dict(removed)})"
        )
    with atomic_folder(args.output_dir) as beside:
        for split, rows in kept.items():
            if rows:
                write_rows(beside / f"{split}.jsonl", rows)
        report = {
            "in": total, "kept": {s: len(r) for s, r in kept.items()}, "removed": dict(removed),
            "coverage": coverage(kept["train"]),
        }  # fmt: skip
        write_json(beside / "report.json", report)
    print(
        f"{args.output_dir}: {len(kept['train'])} demonstrations to train on, {len(kept['validation'])} for validation"
    )


if __name__ == "__main__":
    main()
