"""Labelers who are no people: who they are by `--labeler`, and how each ranks.

    scripted, scripted:MODEL   by their scores, and how good an answer is from 1 to 7
    reward:PATH                by the scores of a reward model
    llm:MODEL@URL              by all pairs, each in both orders

What takes long is kept as it comes (`data_prep.finished_batches`): a killed run goes on.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from data_prep.finished_batches import FinishedBatches
from instruct.checks.score_functions import ScoreFunction, scores_of
from instruct.errors import UserError
from instruct.evaluation.judges import judge_model, judge_of
from instruct.evaluation.llm_judge import (
    KIND,
    LLMJudge,
    Pair,
    Verdict,
    is_llm,
    llm_judge_of,
    outcome,
    ranks_from_wins,
)
from instruct.evaluation.scripted import (
    READER,
    SCRIPTED,
    SCRIPTED_TIE,
    profane_words,
    spoken_name,
)
from instruct.one_bar import moving
from instruct.tokens import template_columns

AT_ONCE = 32  # rows that a labeler who asks a model scores between two notes on disk
ROWS_AT_ONCE = 4  # rows whose pairs an LLM compares between two notes: up to 72 questions each
MOST = 9  # answers of a ranking that an LLM compares: 36 pairs
TIE = SCRIPTED_TIE  # scores closer than this are equal for the scripted labeler
BEST = {SCRIPTED: 1.0, READER: 2.0}  # the highest score there is, which has quality 7
REWARD = "reward"


def ranks_from_scores(scores: list[float], tie: float = TIE) -> list[int]:
    """Dense ranks, 1 = best. Down the scores, a rank is shared by all within `tie` of its best."""
    ranks, rank, best = [0] * len(scores), 0, float("inf")
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        # against the best of the rank, not the neighbour: a chain of small steps is no tie
        if best - scores[i] >= tie and best != scores[i]:
            rank, best = rank + 1, scores[i]
        ranks[i] = rank
    return ranks


################
# By scores
################


class ByScore:
    """The scripted labelers, and a reward model.

    Attributes:
        name: what rows have as `labeler`.
        model: path or id of the model that is asked, if any.
        is_slow: whether what it says is kept as it comes.
        kept: what a batch holds in the file of an unfinished run.
    """

    kept = "scores"

    def __init__(self, spec: str, tie: float | None):
        self.judge: ScoreFunction = judge_of(spec, "--labeler")
        self.model = judge_model(spec)
        self.is_slow = self.model is not None
        if spec.partition(":")[0] == REWARD:
            # the folder alone: a path is of one machine
            self.name = f"{REWARD}:{Path(self.model).name or self.model}"
            self.spoken = f"the reward model {self.name.partition(':')[2]}"
            self.tie, self.points = tie or 0.0, " of the reward model's own points"
        else:
            self.name = READER if self.model else SCRIPTED
            self.spoken = spoken_name(self.name)
            self.tie, self.points = TIE if tie is None else tie, ""

    def settings(self) -> dict:
        """What decides its scores, beyond its flags and its model."""
        return {}

    def notes(self) -> dict:
        """What is recorded of it when it has ranked."""
        return {}

    def rank(self, samples: Dataset, finished: FinishedBatches | None) -> Iterator[dict]:
        """`ranks`, `quality` and `flags` of each row."""
        scores = scores_of_samples(samples, self.judge, self.spoken, finished)
        for texts, found in zip(samples["completions"], scores, strict=True):
            yield self._ranked(texts, found)

    def _ranked(self, texts: list[str], scores: list[float]) -> dict:
        if self.name not in BEST:
            # in another batch the same text may differ in its last bits
            first = dict(zip(reversed(texts), reversed(scores), strict=True))
            # it has no scale from 1 to 7
            return _unjudged(ranks_from_scores([first[text] for text in texts], self.tie))
        # each profane word takes 1 off: scores have no lower end, the 1-7 scale has
        clipped = [max(-1.0, min(1.0, s / BEST[self.name])) for s in scores]
        return {
            "ranks": ranks_from_scores(scores, self.tie),
            "quality": [round(4 + 3 * s) for s in clipped],
            "flags": [["profanity"] if profane_words(text) else [] for text in texts],
        }

    def told(self, strict: str) -> str:
        if self.points and not self.tie:
            return f"{strict} (a tie: equal scores; --tie widens it, in the reward model's points)"
        return f"{strict} (a tie: scores less than {self.tie:g}{self.points} apart)"


def _unjudged(ranks: list[int]) -> dict:
    return {"ranks": ranks, "quality": [None] * len(ranks), "flags": [[] for _ in ranks]}


def scores_of_samples(
    samples: Dataset, judge: ScoreFunction, spoken: str, finished: FinishedBatches | None = None
) -> list[list[float]]:
    """What a labeler thinks of every completion, K scores a row.

    Args:
        spoken: the labeler in a message.
        finished: where scores are kept as they come, for a judge that takes long; without it all
            rows are scored at once.
    """
    size = len(samples) if finished is None else AT_ONCE
    starts = range(0, len(samples), size)
    scores = []
    # who keeps nothing is fast
    with tqdm(total=len(samples), desc=spoken, disable=finished is None) as bar:
        for start in starts:
            rows = samples.select(range(start, min(start + size, len(samples))))
            kept = None if finished is None else finished.done.get(str(start))
            with moving(bar, len(rows)):
                found = _scores(rows, judge, spoken) if kept is None else kept
            if kept is None and finished is not None:
                finished.add(str(start), found)
            scores += found
    return scores


def _scores(samples: Dataset, judge: ScoreFunction, spoken: str) -> list[list[float]]:
    # all at once: a prompt is computed once for its answers
    counts = [len(texts) for texts in samples["completions"]]
    columns = {"prompt": samples["prompt"], **template_columns(_columns(samples))}
    repeated = {
        key: [value for value, count in zip(column, counts, strict=True) for _ in range(count)]
        for key, column in columns.items()
    }
    texts = [text for texts in samples["completions"] for text in texts]
    found = iter(scores_of(judge, spoken, repeated.pop("prompt"), texts, **repeated))
    return [[next(found) for _ in range(count)] for count in counts]


def _columns(samples: Dataset) -> dict[str, list]:
    return {name: samples[name] for name in samples.column_names}


################
# By pairs
################


class ByPairs:
    """An LLM that compares all C(K, 2) pairs of a row; attributes as of `ByScore`."""

    kept, model, is_slow = "verdicts", None, True

    def __init__(self, spec: str, prompt: Path | None):
        self.judge: LLMJudge = llm_judge_of(spec, "--labeler", prompt)
        self.name = f"{KIND}:{self.judge.name}"
        self.spoken = f"the LLM judge {self.judge.name}"

    def settings(self) -> dict:
        return {"judge": self.judge.identity()}

    def notes(self) -> dict:
        return {"judge": {**self.judge.identity(), **asdict(self.judge.tally)}}

    def rank(self, samples: Dataset, finished: FinishedBatches) -> Iterator[dict]:
        """As `ByScore.rank`.

        Raises:
            UserError: a row of more than 9 completions, more than a tenth of the replies cannot be
                read, or what the server's errors come to.
        """
        for number, texts in enumerate(samples["completions"], 1):
            if len(texts) > MOST:
                raise UserError(
                    f"row {number} of the samples has {len(texts)} completions; an LLM compares "
                    f"at most {MOST}, all pairs in both orders"
                )
        verdicts = self._verdicts(samples, finished)
        for texts, found in zip(samples["completions"], verdicts, strict=True):
            yield _unjudged(ranks_from_wins(len(texts), _outcomes(texts, found)))

    def _verdicts(self, samples: Dataset, finished: FinishedBatches) -> list[list]:
        """What the judge says of the pairs of each row, in the order of `combinations`."""
        verdicts = []
        for start in tqdm(range(0, len(samples), ROWS_AT_ONCE), desc=self.spoken):
            kept = finished.done.get(str(start))
            is_new = kept is None
            if is_new:
                rows = samples.select(range(start, min(start + ROWS_AT_ONCE, len(samples))))
                kept = self._compare(rows)
            is_last = start + ROWS_AT_ONCE >= len(samples)
            self.judge.add((said for row in kept for said in row), is_last)
            # only now: what is refused is asked again
            if is_new:
                finished.add(str(start), kept)
            verdicts += kept
        return verdicts

    def _compare(self, rows: Dataset) -> list[list]:
        pairs = [
            [Pair(row["prompt"], *both) for both in combinations(row["completions"], 2)]
            for row in rows
        ]
        found = iter(self.judge.verdicts([pair for row in pairs for pair in row]))
        return [[next(found) for _ in row] for row in pairs]

    def told(self, strict: str) -> str:
        return f"{strict}; {self.judge.tally.sentence()}"


def _outcomes(texts: list[str], verdicts: list[Verdict]) -> Iterator[tuple[int, int, float]]:
    """(i, j, what is said of i against j) of all pairs, as `ranks_from_wins` takes them.

    Of a text that is there more than once, what is said of the first holds for all: copies tie.
    """
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    pairs = list(combinations(range(len(texts)), 2))
    said = {pair: outcome(verdict) for pair, verdict in zip(pairs, verdicts, strict=True)}
    for i, j in pairs:
        a, b = first[texts[i]], first[texts[j]]
        if a == b:
            yield i, j, 0.5
        else:
            yield i, j, said[a, b] if a < b else 1 - said[b, a]


Labeler = ByScore | ByPairs


def check_labeler(spec: str, tie: float | None, prompt: Path | None) -> None:
    """What `labeler_of` can be told before a model is loaded.

    Raises:
        UserError: no such labeler, or a flag that is another labeler's.
    """
    if spec.partition(":")[0] not in (SCRIPTED, REWARD, KIND) or spec == REWARD:
        raise UserError(
            f"--labeler {spec}: must be people, scripted, scripted:MODEL, reward:PATH or "
            "llm:MODEL@URL"
        )
    if prompt is not None and not is_llm(spec):
        raise UserError(f"--judge_prompt is what an LLM is asked; --labeler {spec} is none")
    if tie is not None and is_llm(spec):
        raise UserError(
            "--tie is for labelers who score; an LLM's pair is a tie where its two orders disagree"
        )


def labeler_of(spec: str, tie: float | None = None, prompt: Path | None = None) -> Labeler:
    """Who ranks by a spec.

    Args:
        tie: scores closer than this are a tie; of those who score.
        prompt: a file that an LLM is asked by, in place of ours.

    Raises:
        UserError: no model there, or as `check_labeler`.
    """
    check_labeler(spec, tie, prompt)
    return ByPairs(spec, prompt) if is_llm(spec) else ByScore(spec, tie)


def rank_row(row: dict, found: dict, labeler: str) -> dict:
    """A samples row with a labeler's `ranks`, `quality` (1-7) and `flags`, K of each."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**row, **found, "labeler": labeler, "timestamp": now}
