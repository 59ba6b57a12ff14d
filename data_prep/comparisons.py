"""Rankings -> comparisons: one ranking is one row, the batch element of the paper's reward model (section 3.5).

    python -m data_prep.comparisons --input rankings.jsonl --output_dir comparisons/

Writes `{train,validation}.jsonl` (`prompt`, `completions`, `ranks` and what rode along), `report.json` and a dataset card.
Rankings that say nothing (one completion, or all tied) are counted and left out. Rankings of one user, or else of one
prompt, are all in one split.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from instruct.files import UserError, atomic_folder, command, load_rows, write_json, write_rows
from instruct.tokens import as_messages, as_text


def check_ranking(row: dict, where: str) -> str | None:
    """None for a usable ranking, else why it carries no preference.

    Raises:
        UserError: the row is no ranking at all (names `where`).
    """
    completions, ranks = row["completions"], row["ranks"]
    if (
        not isinstance(completions, list)
        or not isinstance(ranks, list)
        or len(completions) != len(ranks)
    ):
        raise UserError(f"{where}: completions and ranks must be two lists of one length")
    if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in ranks):
        raise UserError(
            f"{where}: ranks must be whole numbers from 1 (best), equal for a tie; found {ranks}"
        )
    if not row["prompt"] or not as_text(row["prompt"]).strip():
        raise UserError(f"{where}: empty prompt")
    if len(completions) < 2:
        return "one_completion"
    return "all_tied" if len(set(ranks)) == 1 else None


def in_validation(row: dict, share: float) -> bool:
    """Stable split by user where known, else by prompt."""
    key = str(row.get("user_id") or row.get("prompt_id") or as_text(row["prompt"]))
    return (
        int(hashlib.md5(key.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8], 16)
        / 16**8
        < share
    )


def dataset_card(report: dict, labelers: list[str]) -> str:
    """README.md whose metadata lets `load_dataset(DIR)` find the splits."""
    splits = [split for split, n in report["kept"].items() if n]
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    counts = "".join(
        f"| {s} | {report['kept'][s]} | {report['pairs'].get(s, 0)} |\n" for s in splits
    )
    left_out = ", ".join(f"{n} {why}" for why, n in report["removed"].items()) or "none"
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}task_categories:\n- reinforcement-learning\n"
        "tags:\n- instruct-recipes\n- preference\n---\n\n# Ranked outputs\n\n"
        "One row is one ranking: `prompt` (messages), `completions` (K texts), `ranks` (K, 1 = best, equal = tie).\n"
        f"Ranked by: {', '.join(labelers) or 'not recorded'}. All rankings of one user are in one split.\n\n"
        f"| split | rankings | strict pairs |\n|---|---|---|\n{counts}\n"
        f"{report['in']} in; left out because they say nothing: {left_out}.\n"
    )


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", nargs="+", required=True, help="rankings: files, folders or Hub ids"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--validation", type=float, default=0.15, help="share of users (or prompts) held out"
    )
    args = parser.parse_args(argv)
    splits: dict[str, list[dict]] = {"train": [], "validation": []}
    left_out, total, pairs = Counter(), 0, Counter()
    for source in args.input:
        for number, row in enumerate(
            load_rows(source, columns=["prompt", "completions", "ranks"]), 1
        ):
            total += 1
            why = check_ranking(row, f"{source}, row {number}")
            if why:
                left_out[why] += 1
                continue
            split = "validation" if in_validation(row, args.validation) else "train"
            pairs[split] += sum(a < b for a in row["ranks"] for b in row["ranks"])
            splits[split].append({**row, "prompt": as_messages(row["prompt"])})
    if not splits["train"]:
        raise UserError(
            f"{', '.join(args.input)}: no ranking with a preference is left ({dict(left_out)} left out)"
        )
    with atomic_folder(args.output_dir) as beside:
        for split, rows in splits.items():
            if rows:
                write_rows(beside / f"{split}.jsonl", rows)
        report = {
            "in": total,
            "kept": {s: len(r) for s, r in splits.items()},
            "pairs": dict(pairs),
            "removed": dict(left_out),
        }
        write_json(beside / "report.json", report)
        labelers = sorted(
            {str(row["labeler"]) for rows in splits.values() for row in rows if row.get("labeler")}
        )
        (beside / "README.md").write_text(dataset_card(report, labelers), encoding="utf-8")
    print(f"{args.output_dir}: {report}")


if __name__ == "__main__":
    main()
