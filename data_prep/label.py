"""Samples -> rankings. Where no people rank, a *scripted labeler* does, and is named so everywhere.

    python -m data_prep.label --input samples.jsonl --labeler scripted --output rankings.jsonl

`scripted` likes cheerful, clean text; `scripted:MODEL` also reads the prompt: he asks whether the
answer fits it, ends, and repeats nothing (docs/reward.md). Scores closer than `--tie` to the best
of their group are one rank. They stand in for people in the demo: their taste is known exactly, so
a learned reward can be held against it.
"""

from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from data_prep.finished_batches import FinishedBatches, partial_of
from data_prep.formats.flags import add_shape_flags
from data_prep.formats.reader import read
from instruct.checks.score_functions import ScoreFunction, scores_of
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.judges import judge_model, judge_of
from instruct.evaluation.scripted import (
    LABELERS,
    READER,
    SCRIPTED,
    profane_words,
    scripted_reward,  # noqa: F401  (settings name data_prep.label:scripted_reward)
    scripted_score,  # noqa: F401
    spoken_name,
)
from instruct.evaluation.scripted import word_lists as _tools  # noqa: F401  (its name to others)
from instruct.files import check_output, load_rows, write_json, write_rows
from instruct.run.data_runs import add_overwrite, record_of_data
from instruct.run.fingerprints import content_of
from instruct.run.folders import claim, record_beside
from instruct.tokens import template_columns

AT_ONCE = 32  # rows that a labeler who asks a model scores between two notes on disk
# the demo's figures (benchmarks/README.md) were measured with this
TIE = 0.3  # scores closer than this are equal for the scripted labeler
BEST = {SCRIPTED: 1.0, READER: 2.0}  # the highest score there is, which has quality 7


def ranks_from_scores(scores: list[float], tie: float = TIE) -> list[int]:
    """Dense ranks, 1 = best. Down the scores, a rank is shared by all within `tie` of its best."""
    ranks, rank, best = [0] * len(scores), 0, float("inf")
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        # against the best of the rank, not the neighbour: a chain of small steps is no tie
        if best - scores[i] >= tie:
            rank, best = rank + 1, scores[i]
        ranks[i] = rank
    return ranks


def scores_of_samples(
    samples: Dataset, judge: ScoreFunction, name: str, finished: FinishedBatches | None = None
) -> list[list[float]]:
    """What a labeler thinks of every completion, K scores a row.

    Args:
        finished: where scores are kept as they come, for a judge that takes long; without it all
            rows are scored at once.
    """
    size = len(samples) if finished is None else AT_ONCE
    starts = range(0, len(samples), size)
    # who keeps nothing is fast
    bar = tqdm(starts, desc=spoken_name(name), disable=finished is None)
    scores = []
    for start in bar:
        kept = None if finished is None else finished.done.get(str(start))
        if kept is None:
            rows = samples.select(range(start, min(start + size, len(samples))))
            kept = _scores(rows, judge, name)
            if finished is not None:
                finished.add(str(start), kept)
        scores += kept
    return scores


def _scores(samples: Dataset, judge: ScoreFunction, name: str) -> list[list[float]]:
    # all at once: a prompt is computed once for its answers
    counts = [len(texts) for texts in samples["completions"]]
    columns = {"prompt": samples["prompt"], **template_columns(_columns(samples))}
    repeated = {
        key: [value for value, count in zip(column, counts, strict=True) for _ in range(count)]
        for key, column in columns.items()
    }
    texts = [text for texts in samples["completions"] for text in texts]
    found = iter(scores_of(judge, spoken_name(name), repeated.pop("prompt"), texts, **repeated))
    return [[next(found) for _ in range(count)] for count in counts]


def _columns(samples: Dataset) -> dict[str, list]:
    return {name: samples[name] for name in samples.column_names}


def rank_row(row: dict, scores: list[float], tie: float, labeler: str) -> dict:
    """A samples row with a labeler's `ranks`, `quality` (1-7) and `flags`, K of each."""
    # each profane word takes 1 off: scores have no lower end, the 1-7 scale has
    best = BEST[labeler]
    clipped = [max(-1.0, min(1.0, s / best)) for s in scores]
    return {
        **row,
        "ranks": ranks_from_scores(scores, tie),
        "quality": [round(4 + 3 * s) for s in clipped],
        "flags": [["profanity"] if profane_words(text) else [] for text in row["completions"]],
        "labeler": labeler,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def check_own_rankings(path: Path) -> None:
    """That nothing is replaced but an earlier output of this command: people's ranks least of all.

    Raises:
        UserError: the file holds other rows.
    """
    # one that was touched and never filled holds nothing
    if not path.is_file() or not path.stat().st_size:
        return
    labelers = {row.get("labeler") if "ranks" in row else None for row in load_rows(path)}
    if not labelers or not labelers <= set(LABELERS):
        raise UserError(
            f"--output {path} holds rows that the scripted labeler did not rank; give another file"
        )


def strict_pairs(rankings: list[list[int]]) -> tuple[int, int]:
    """(pairs of outputs with a preference, all pairs) of the `ranks` of several rankings."""
    pairs = [a != b for ranks in rankings for a, b in combinations(ranks, 2)]
    return sum(pairs), len(pairs)


def labeler_of(spec: str) -> tuple[ScoreFunction, str]:
    """Who ranks, as a score function, and the name that rows have.

    Raises:
        UserError: another judge than a scripted labeler, or no model there.
    """
    if spec.partition(":")[0] != "scripted":
        raise UserError(
            f"--labeler {spec}: must be scripted, or scripted:MODEL, a folder or Hub id"
        )
    return judge_of(spec, "--labeler"), READER if judge_model(spec) else SCRIPTED


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("--input", required=True, help="samples: file, folder or Hub id")
    parser.add_argument("--output", required=True, type=Path, help="rankings (.jsonl or .parquet)")
    who = "who ranks: scripted, or scripted:MODEL, who reads the prompt"
    parser.add_argument("--labeler", required=True, metavar="scripted[:MODEL]", help=who)
    parser.add_argument("--tie", type=float, default=TIE, help="scores closer than this are a tie")
    add_shape_flags(parser)
    add_overwrite(parser, "start over: also forget the scores of an unfinished run")
    return parser


def settings_of(record: dict) -> dict:
    """Everything that changes the scores; not the width of a tie."""
    flags = {flag: value for flag, value in record["flags"].items() if flag != "tie"}
    data = {flag: content_of(identity) for flag, identity in record["data"].items()}
    models = {flag: content_of(identity) for flag, identity in record["models"].items()}
    return {"step": "label", "flags": flags, "data": data, "models": models}


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    claim(args.output)
    check_output(args.output)
    check_own_rankings(args.output)
    judge, name = labeler_of(args.labeler)
    asked = judge_model(args.labeler)
    models = {"labeler": asked} if asked else None
    record = record_of_data("label", args, {"input": args.input}, models, labelers=[name])
    samples = read(args.input, "samples", format=args.format, columns=args.columns)
    partial = partial_of(args.output)
    if args.overwrite_output_dir:
        partial.unlink(missing_ok=True)
    finished = FinishedBatches(partial, settings_of(record), "scores") if asked else None
    scores = scores_of_samples(samples, judge, name, finished)
    rows = [rank_row(row, s, args.tie, name) for row, s in zip(samples, scores, strict=True)]
    # first: an output never stands without its record
    write_json(record_beside(args.output), record)
    write_rows(args.output, rows)
    # only now: until the output stands, the scores are all there is
    if finished is not None:
        partial.unlink()
    some = sum(len(set(row["ranks"])) > 1 for row in rows)
    strict, pairs = strict_pairs([row["ranks"] for row in rows])
    share = f"{100 * strict / pairs:.0f} % of {pairs} pairs" if pairs else "none of 0 pairs"
    print(
        f"{args.output}: {len(rows)} rankings by {spoken_name(name)}, {some} with a preference; "
        f"{share} strict (a tie: scores less than {args.tie:g} apart)"
    )


if __name__ == "__main__":
    main()
