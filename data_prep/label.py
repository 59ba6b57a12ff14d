"""Samples -> rankings. Where no people rank, a *scripted labeler* does, and is named so everywhere.

    python -m data_prep.label --input samples.jsonl --labeler scripted --output rankings.jsonl

The scripted labeler likes cheerful, clean text: VADER's compound sentiment (-1 to 1) minus the
number of profane words `better-profanity` finds. Scores closer than `--tie` to the best of their
group are one rank. It stands in for people in the demo: its taste is known exactly, so a learned
reward can be held against it.
"""

from datetime import UTC, datetime
from pathlib import Path

from data_prep.formats.flags import add_shape_flags
from data_prep.formats.reader import read
from instruct.checks.score_functions import checked_scores
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.scripted import (
    profane_words,
    scripted_reward,  # noqa: F401  (people's configs name data_prep.label:scripted_reward)
    scripted_score,
)
from instruct.files import check_output, load_rows, write_json, write_rows
from instruct.run.data_runs import record_beside, record_of_data
from instruct.run.folders import claim

# the demo's figures (benchmarks/README.md) were measured with this
TIE = 0.3  # scores closer than this are equal for the scripted labeler


def ranks_from_scores(scores: list[float], tie: float = TIE) -> list[int]:
    """Dense ranks, 1 = best. Down the scores, a rank is shared by all within `tie` of its best."""
    ranks, rank, best = [0] * len(scores), 0, float("inf")
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        # against the best of the rank, not the neighbour: a chain of small steps is no tie
        if best - scores[i] >= tie:
            rank, best = rank + 1, scores[i]
        ranks[i] = rank
    return ranks


def rank_row(row: dict, tie: float) -> dict:
    """A samples row with the scripted labeler's `ranks`, `quality` (1-7) and `flags`, K of each."""
    texts = row["completions"]
    scores = checked_scores(map(scripted_score, texts), "the scripted labeler", texts)
    # each profane word takes 1 off: scores have no lower end, the 1-7 scale has
    clipped = [max(-1.0, min(1.0, s)) for s in scores]
    return {
        **row,
        "ranks": ranks_from_scores(scores, tie),
        "quality": [round(4 + 3 * s) for s in clipped],
        "flags": [["profanity"] if profane_words(text) else [] for text in texts],
        "labeler": "scripted",
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
    if labelers != {"scripted"}:
        raise UserError(
            f"--output {path} holds rows that the scripted labeler did not rank; give another file"
        )


@command
def main(argv: list[str] | None = None) -> None:
    from tqdm import tqdm

    parser = Parser(description=__doc__)
    parser.add_argument("--input", required=True, help="samples: file, folder or Hub id")
    parser.add_argument("--output", required=True, type=Path, help="rankings (.jsonl or .parquet)")
    parser.add_argument("--labeler", required=True, choices=["scripted"], help="who ranks")
    parser.add_argument("--tie", type=float, default=TIE, help="scores closer than this are a tie")
    add_shape_flags(parser)
    args = parser.parse_args(argv)
    claim(args.output)
    check_output(args.output)
    check_own_rankings(args.output)
    record = record_of_data("label", args, {"input": args.input}, labelers=[args.labeler])
    samples = read(args.input, "samples", format=args.format, columns=args.columns)
    rows = [rank_row(row, args.tie) for row in tqdm(samples, desc="ranking (scripted labeler)")]
    # first: an output never stands without its record
    write_json(record_beside(args.output), record)
    write_rows(args.output, rows)
    strict = sum(len(set(row["ranks"])) > 1 for row in rows)
    print(
        f"{args.output}: {len(rows)} rankings by the scripted labeler, {strict} with a preference"
    )


if __name__ == "__main__":
    main()
