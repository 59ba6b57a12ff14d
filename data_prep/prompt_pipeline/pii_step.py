"""Step 6: which prompts hold personal information, of what kind, and how they read without it.

The engine's regular expressions pick candidates (or, with a model, every prompt is read); the
finders then run in parallel processes. What is kept or dropped is decided in `data_prep.prompts`.
"""

import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.formats.bounded import in_chunks
from data_prep.pii import Found, ModelFinder, find_pii, find_suspected, merge, redact
from data_prep.prompt_pipeline.engine import Engine, batches
from data_prep.prompt_pipeline.parallel import parallel
from data_prep.prompt_pipeline.row_stream import with_texts
from data_prep.prompt_pipeline.steps import with_pii_candidates

FOUND = pa.schema(
    {
        "row": pa.int64(),
        "kinds": pa.list_(pa.string()),
        "hashes": pa.list_(pa.string()),
        "prompt": pa.string(),  # redacted
        "history": pa.string(),  # redacted, JSON
    }
)
# small: candidates are few, and every worker should have some
JOB_ROWS, JOB_BYTES = 2_000, 4 << 20
TEXTS = ["prompt", "history"]
Spans = dict[tuple[int, int], list[Found]]  # (row, number of the text in it) -> what a model found


@dataclass(frozen=True)
class PiiJob:
    """What to look for, and the key under which values are hashed."""

    kinds: tuple[str, ...]
    regions: tuple[str, ...]
    key: bytes
    reserved: bool = False  # also addresses of nobody, as example.com

    def hash(self, kind: str, value: str) -> str:
        """Tells equal values from others; keyed, since a bare hash of a phone can be guessed."""
        # 128 bits are plenty, and half the column
        return hmac.new(self.key, f"{kind}:{value}".encode(), "sha256").hexdigest()[:32]


def find_all_pii(
    engine: Engine,
    rows: ibis.Table,
    job: PiiJob,
    finder: ModelFinder | None,
    processes: int,
    progress: Callable[[int], None],
) -> int:
    """Writes the folder `found` (schema `FOUND`, sorted by row); returns how many rows it has."""
    total = 0
    (engine.folder / "found").mkdir()
    # written even without findings: the engine needs a file with a schema
    with pq.ParquetWriter(engine.folder / "found" / "part-0.parquet", FOUND) as out:
        for found in _results(engine, rows, job, finder, processes):
            total += len(found)
            progress(len(found))
            out.write_table(pa.Table.from_pylist(found, FOUND))
    return total


def _results(
    engine: Engine, rows: ibis.Table, job: PiiJob, finder: ModelFinder | None, processes: int
) -> Iterable[list[dict]]:
    staged = engine.folder / "rows"
    if finder is not None:  # the model sees every prompt, in this process
        read = model_batches(batches(staged, ["row", *TEXTS]), finder)
        return (find_in_batch(batch, job, spans) for batch, spans in read)
    # --pii keep, or every kind switched off
    if not job.kinds:
        return []
    candidates = engine.write(with_pii_candidates(rows, job.kinds), "candidates")
    read = with_texts(candidates, staged, TEXTS)
    jobs = ((batch, job) for batch in in_chunks(read, JOB_BYTES, JOB_ROWS))
    return parallel(find_in_batch, jobs, processes)


def find_in_batch(batch: pa.RecordBatch, job: PiiJob, spans: Spans | None = None) -> list[dict]:
    """The rows of a batch that hold personal information, as rows of `FOUND`.

    Args:
        batch: `row, prompt, history`, and a flag for every kind that the engine suspects; without
            any flag all kinds of the job are looked for.
        spans: what a model found on top.
    """
    flagged = [kind for kind in job.kinds if kind in batch.schema.names]
    found = []
    for line in batch.to_pylist():
        row, prompt, history = line["row"], line["prompt"], _turns(line["history"])
        # flags are of prompt and history together, so all texts get the same kinds
        suspected = [kind for kind in flagged if line[kind]]
        kinds = suspected or job.kinds
        texts = [prompt, *(turn["content"] for turn in history)]
        # of one text the engine has asked all that the gates of `find_pii` would
        find = find_suspected if suspected and len(texts) == 1 else find_pii
        here = [
            merge(find(text, kinds, job.regions, job.reserved), (spans or {}).get((row, i), ()))
            for i, text in enumerate(texts)
        ]
        if any(here):
            # whatever --pii says: what other steps removed is shown redacted
            clean, *clean_turns = map(redact, texts, here)
            values = _values(texts, here)
            found.append(
                {
                    "row": row,
                    "kinds": [kind for kind, _ in values],
                    "hashes": [job.hash(kind, value) for kind, value in values],
                    "prompt": clean,
                    "history": line["history"] and _with_contents(history, clean_turns),
                }
            )
    return found


def _turns(history: str | None) -> list[dict]:
    return json.loads(history) if history else []


def _values(texts: Sequence[str], spans: Sequence[Sequence[Found]]) -> list[tuple[str, str]]:
    """The distinct (kind, value) of a row, sorted."""
    # sorted: the same bytes whichever finder came first
    return sorted(
        {
            (span.kind, text[span.start : span.end])
            for text, here in zip(texts, spans, strict=True)
            for span in here
        }
    )


def _with_contents(turns: list[dict], contents: list[str]) -> str:
    pairs = zip(turns, contents, strict=True)
    return json.dumps([{**turn, "content": text} for turn, text in pairs], ensure_ascii=False)


def model_batches(
    read: Iterable[pa.RecordBatch], finder: ModelFinder
) -> Iterator[tuple[pa.RecordBatch, Spans]]:
    """Every batch with what the model found in it."""
    for batch in read:
        # all texts of a batch at once: the model fills its own batches
        texts = {
            (line["row"], i): text
            for line in batch.to_pylist()
            for i, text in enumerate(
                [line["prompt"], *(turn["content"] for turn in _turns(line["history"]))]
            )
        }
        answers = finder(list(texts.values()))
        yield batch, {key: spans for key, spans in zip(texts, answers, strict=True) if spans}
