"""What is wrong with the flags of `data_prep.prompts`, told before anything is read."""

import argparse
import importlib.util
import re
from pathlib import Path

from data_prep.formats.language_detector import NEEDS
from data_prep.pii import check_regions
from data_prep.prompt_pipeline.engine import NO_SPARK
from instruct.errors import UserError
from instruct.run.folders import check_ours, report_in

# 9 words: see `overlap.ALIGNED`
LEAST = {"prefix_chars": 1, "max_per_user": 1, "num_proc": 1, "exclude_words": 9}
EXAMPLE = "train=0.9,validation=0.05,test=0.05"


def parse_splits(text: str) -> dict[str, float]:
    """ "train=0.9,validation=0.05,test=0.05" as a dict; shares must add up to 1."""
    splits: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        name = name.strip()
        try:
            value = float(share)
        except ValueError:
            raise UserError(
                f"--splits: {item!r} is not NAME=SHARE (for example {EXAMPLE})"
            ) from None
        # a file is named after the split, beside removed.parquet
        good = re.fullmatch(r"[A-Za-z]\w*", name) and name not in {*splits, "removed"}
        if not good or not 0 < value <= 1:
            raise UserError(
                f"--splits: {item!r} needs a name used once and a share above 0 and at most 1"
            )
        splits[name] = value
    # floats: 0.1 and 0.2 make no exact 0.3
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise UserError(f"--splits: the shares add up to {sum(splits.values()):g}, not 1")
    return splits


def check_flags(args: argparse.Namespace) -> dict[str, float]:
    """The splits; `args.phone_regions` come back in capitals.

    Raises:
        UserError: a flag that cannot be, or that does not go with another.
    """
    splits = parse_splits(args.splits)
    for flag, least in LEAST.items():
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be {least} or more")
    # lower, most candidates of LSH meet by chance
    if args.near_duplicates is not None and not 0.3 <= args.near_duplicates <= 1:
        raise UserError(f"--near_duplicates {args.near_duplicates}: must lie between 0.3 and 1")
    if args.near_duplicates is not None and args.backend != "duckdb":
        raise UserError(
            "--near_duplicates works with --backend duckdb only "
            "(it compares prompts in one process)"
        )
    if args.pii_splits == "train" and "train" not in splits:
        raise UserError("--pii_splits train: --splits has no split named train")
    if args.memory_limit and not re.fullmatch(r"(?i)\d+(\.\d+)?\s*[kmgt]i?b", args.memory_limit):
        raise UserError(f"--memory_limit {args.memory_limit}: expected a size like 4GB")
    # looked for, not imported: that takes a second
    if args.backend == "pyspark" and importlib.util.find_spec("pyspark") is None:
        raise UserError(NO_SPARK)
    if args.language and importlib.util.find_spec("py3langid") is None:
        raise UserError(NEEDS)
    if args.pii != "keep":
        # asks phonenumbers, which --pii keep does without
        args.phone_regions = check_regions(args.phone_regions)
    # before the work, not after it
    check_ours(args.output_dir, **names_of(args.output_dir), changed=args.overwrite_output_dir)
    return splits


def names_of(out: Path) -> dict:
    """What an earlier version wrote to this folder, for `check_ours`; the splits as it names them.

    A folder without its report holds nothing of ours.
    """
    report = report_in(out)
    files = [f"{name}.parquet" for name in (*report.get("splits", ()), "removed")]
    return {
        "names": (*files, "report.json", "README.md", "run.json"),
        "report_keys": ("in", "kept", "removed", "splits", "steps"),
    }
