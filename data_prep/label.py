"""Outputs -> rankings: by people, on a page in the browser, or by judges that are no people.

    python -m data_prep.label --labeler people --input samples.jsonl --database labels.sqlite
    python -m data_prep.label --database labels.sqlite --output rankings.jsonl
    python -m data_prep.label --input samples.jsonl --labeler scripted --output rankings.jsonl

The first opens the page, the second writes what people have ranked so far, also while it is open
(docs/labeling.md). The third ranks without people: `scripted` likes cheerful, clean text,
`scripted:MODEL` also reads the prompt (docs/reward.md), `reward:PATH` is a reward model, and
`llm:MODEL@URL` any model behind an OpenAI-compatible server. Rows name who ranked them.
"""

import argparse
from itertools import combinations
from pathlib import Path

from data_prep.finished_batches import FinishedBatches, partial_of
from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.reader import read
from data_prep.labeling.answers import KINDS
from data_prep.labeling.export import export
from data_prep.labeling.judges import TIE, check_labeler, labeler_of, rank_row
from data_prep.labeling.judges import ranks_from_scores as ranks_from_scores
from data_prep.labeling.people import open_page
from data_prep.labeling.questions import QUESTIONS
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.judges import is_judge
from instruct.evaluation.scripted import (
    scripted_reward,  # noqa: F401  (settings name data_prep.label:scripted_reward)
    scripted_score,  # noqa: F401
)
from instruct.evaluation.scripted import word_lists as _tools  # noqa: F401  (its name to others)
from instruct.files import check_output, load_rows, write_json, write_rows
from instruct.plain_text import one_line
from instruct.run.data_runs import add_overwrite, record_of_data
from instruct.run.fingerprints import content_of
from instruct.run.folders import claim, record_beside

PEOPLE = "people"

# what is asked of whom: flags that must be there, and those that can
ALWAYS = {"debug", "format", "columns"}
PAGE = (
    {"labeler", "database"},
    {"input", "kind", "ranking_only", "questions", "per_item", "overlap", "lease_minutes",
     "screening", "instructions", "passwords", "owner", "host", "port", "seed", *ALWAYS},
)  # fmt: skip
EXPORT = (
    {"database", "output"},
    {"kind", "with_screening", "overwrite_output_dir", "debug"},
)
JUDGES = (
    {"labeler", "input", "output"},
    {"tie", "judge_prompt", "overwrite_output_dir", *ALWAYS},
)


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", help="samples (or answers, or prompts) to label: file, folder or Hub id")
    add("--output", type=Path, help="rankings (.jsonl or .parquet)")
    who = "who ranks: people, scripted, scripted:MODEL, reward:PATH or llm:MODEL@URL"
    add("--labeler", metavar="WHO", help=who)

    judges = parser.add_argument_group("judges that are no people")
    tie = f"scores closer than this are a tie; default {TIE} (reward:PATH: 0, in its own points)"
    judges.add_argument("--tie", type=float, help=tie)
    prompt = "what an LLM is asked, in place of instruct/evaluation/llm_judge_prompt.md"
    judges.add_argument("--judge_prompt", type=Path, metavar="FILE", help=prompt)

    people = parser.add_argument_group("people")
    add = people.add_argument
    add("--database", type=Path, help="their answers (SQLite); made by the page, read by --output")
    add("--kind", choices=KINDS, help="what people do; default rankings")
    add("--ranking_only", action="store_true", help="no quality and no questions, only ranks")
    asked = f"yes/no questions of each output, default all: {', '.join(QUESTIONS)}"
    add("--questions", nargs="+", metavar="NAME", help=asked)
    add("--per_item", type=int, help="labelers of an item; default 1")
    overlap = "share of the items that all labelers get; default 0.1, of demonstrations 0"
    add("--overlap", type=float, help=overlap)
    lease = "an item that was taken and left for so long goes to another; default 60"
    add("--lease_minutes", type=float, help=lease)
    add("--screening", metavar="FILE", help="rankings of the owner's, mixed in to compare with")
    screened = "with --output: answers to screening items, too, told apart by `is_screening`"
    add("--with_screening", action="store_true", help=screened)
    add("--instructions", type=Path, metavar="FILE", help="Markdown, in place of ours")
    add("--passwords", type=Path, metavar="FILE", help="names and passwords of a team")
    add("--owner", metavar="NAME", help="who sees the progress of all")
    add("--host", help="address of the page; default 127.0.0.1, this machine alone")
    add("--port", type=int, help="default 7860")
    add("--seed", type=int, help="of orders and of what all labelers get; default 0")
    add_shape_flags(parser)
    over = (
        "start over: also forget the answers of an unfinished judge, or replace what people "
        "ranked where that was changed by hand since it was written"
    )
    add_overwrite(parser, over)
    return parser


def mode_of(args: argparse.Namespace) -> tuple[set[str], set[str]]:
    """`PAGE`, `EXPORT` or `JUDGES`: what these flags ask for.

    Raises:
        UserError: none of them, or flags of two.
    """
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    if args.labeler is None:
        if args.database is None:
            raise UserError(
                "--labeler says who ranks: people, scripted, scripted:MODEL, reward:PATH or "
                "llm:MODEL@URL; without it, --database and --output write what people have ranked"
            )
        mode, what = EXPORT, "--database without --labeler, which writes what is in it,"
    elif args.labeler == PEOPLE:
        mode, what = PAGE, "--labeler people"
        if args.output is not None:
            raise UserError(
                "--labeler people opens the page; what people ranked is written by a command of "
                "its own, also while the page is open: --database FILE --output FILE"
            )
    else:
        mode, what = JUDGES, f"--labeler {args.labeler}"
    needed, more = mode
    if missing := sorted(needed - given):
        raise UserError(f"{what} needs --{' and --'.join(missing)}")
    if wrong := sorted(given - needed - more):
        raise UserError(f"{what} has no use for --{' and --'.join(wrong)}; leave it out")
    return mode


################
# By judges that are no people
################


def strict_pairs(rankings: list[list[int]]) -> tuple[int, int]:
    """(pairs of outputs with a preference, all pairs) of the `ranks` of several rankings."""
    pairs = [a != b for ranks in rankings for a, b in combinations(ranks, 2)]
    return sum(pairs), len(pairs)


def check_own_rankings(path: Path) -> None:
    """That nothing is replaced but an earlier output of this command: people's ranks least of all.

    Raises:
        UserError: the file holds other rows.
    """
    # one that was touched and never filled holds nothing
    if not path.is_file() or not path.stat().st_size:
        return
    labelers = [row.get("labeler") if "ranks" in row else None for row in load_rows(path)]
    if not labelers or not all(map(is_judge, labelers)):
        raise UserError(
            f"--output {path} holds rows that no scripted labeler, reward model or LLM ranked; "
            "give another file"
        )


def settings_of(record: dict) -> dict:
    """Everything that changes what a judge is asked; not the width of a tie."""
    flags = {flag: value for flag, value in record["flags"].items() if flag != "tie"}
    data = {flag: content_of(identity) for flag, identity in record["data"].items()}
    models = {flag: content_of(identity) for flag, identity in record["models"].items()}
    return {"step": "label", "flags": flags, "data": data, "models": models}


def record_of_judge(args: argparse.Namespace, labeler) -> dict:
    """`run.json` of a ranking without people, with the flags that it has."""
    names = ("input", "output", "labeler", "tie", "format", "columns", "overwrite_output_dir")
    flags = {name: getattr(args, name) for name in names}
    data = {"input": args.input}
    if hasattr(labeler, "tie"):
        flags["tie"] = labeler.tie
    else:
        del flags["tie"]
        data |= {"judge_prompt": args.judge_prompt} if args.judge_prompt else {}
    models = {"labeler": labeler.model} if labeler.model else None
    flags = argparse.Namespace(**flags)
    return record_of_data("label", flags, data, models, labelers=[labeler.name])


def rank(args: argparse.Namespace) -> None:
    """Writes `--output`, ranked by the judge of `--labeler`."""
    check_labeler(args.labeler, args.tie, args.judge_prompt)
    claim(args.output)
    check_output(args.output)
    check_own_rankings(args.output)
    labeler = labeler_of(args.labeler, args.tie, args.judge_prompt)
    record = record_of_judge(args, labeler)
    samples = read(args.input, "samples", **shape_of(args))
    partial = partial_of(args.output)
    if args.overwrite_output_dir:
        partial.unlink(missing_ok=True)
    # who asks no model is fast
    finished = None
    if labeler.is_slow:
        settings = {**settings_of(record), **labeler.settings()}
        finished = FinishedBatches(partial, settings, labeler.kept)
    found = labeler.rank(samples, finished)
    rows = [rank_row(row, made, labeler.name) for row, made in zip(samples, found, strict=True)]
    # first: an output never stands without its record
    write_json(record_beside(args.output), {**record, **labeler.notes()})
    write_rows(args.output, rows)
    # only now: until the output stands, what was kept is all there is
    if finished is not None:
        partial.unlink()
    some = sum(len(set(row["ranks"])) > 1 for row in rows)
    strict, pairs = strict_pairs([row["ranks"] for row in rows])
    share = f"{100 * strict / pairs:.0f} % of {pairs} pairs" if pairs else "none of 0 pairs"
    print(
        f"{args.output}: {len(rows)} rankings by {labeler.spoken}, {some} with a preference; "
        f"{labeler.told(f'{share} strict')}"
    )


def write_export(args: argparse.Namespace) -> None:
    """Writes what people have said so far to `--output`."""
    found = export(
        args.database,
        args.output,
        args.kind,
        screening=args.with_screening,
        changed=args.overwrite_output_dir,
    )
    people = ", ".join(f"{one_line(name, 60)} {n}" for name, n in found["labelers"].items())
    more = f"; {found['screening']} answers to screening items left out" * bool(found["screening"])
    print(f"{args.output}: {found['rows']} rows of {args.database} ({people}){more}")


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    mode = mode_of(args)
    if mode is JUDGES:
        rank(args)
    elif mode is PAGE:
        open_page(args)
    else:
        write_export(args)


if __name__ == "__main__":
    main()
