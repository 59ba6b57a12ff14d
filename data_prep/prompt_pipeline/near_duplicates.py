"""Step 5: prompts that say nearly what an earlier one says (MinHash over triples of words)."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.prompt_pipeline.engine import batches
from data_prep.prompt_pipeline.row_stream import with_texts
from data_prep.prompt_pipeline.units import units_of
from instruct.errors import UserError

# standard error of the estimate: at most 1 / (2 * sqrt(128)) = 0.044
PERMUTATIONS = 128
# divisors of PERMUTATIONS; more bands meet sooner and give more candidates to check
BANDS = (4, 8, 16, 32, 64, 128)


def bands_for(threshold: float) -> int:
    """The fewest LSH bands that still let pairs of this similarity (Jaccard) meet.

    b bands of r = PERMUTATIONS / b rows begin to let pairs through at (1/b)^(1/r) = (1/b)^(b/128).
    """
    for bands in BANDS:
        # 0.05 below: at that similarity itself a third of the pairs is still missed
        if (1 / bands) ** (bands / PERMUTATIONS) <= threshold - 0.05:
            return bands
    return BANDS[-1]


def shingles(prompt: str) -> list[str]:
    """Triples of units; fewer are one shingle, and so is a text without any."""
    words = units_of(prompt)
    if not words:
        # emoji alone, say: the same text is still the same
        return [prompt]
    return [" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1))]


def find_near_duplicates(
    left: Path,
    ordered: Path,
    staged: Path,
    threshold: float,
    seed: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[int, str]]:
    """(row, id of the one that stays) of prompts to which an earlier kept one is similar.

    Args:
        left: `row` of the prompts to compare, in row order.
        ordered: `row, id` of the same, the earliest first.
        staged: the folder `rows`.
        threshold: estimated Jaccard similarity from which on a prompt goes.

    Raises:
        UserError: rensa is not installed.
    """
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError as error:
        raise UserError("--near_duplicates needs rensa: pip install -e '.[near]'") from error
    # in the order of the log: half a kilobyte each, where an engine would have to sort the texts
    sketches: dict[int, RMinHash] = {}
    for batch in with_texts(left, staged, ["prompt"]):
        for line in batch.to_pylist():
            # masked: seeds may be negative
            sketch = sketches[line["row"]] = RMinHash(PERMUTATIONS, seed & 0x7FFFFFFF)
            sketch.update(shingles(line["prompt"]))
    # not parallel: each prompt is held against those that stay, so order decides
    index = RMinHashLSH(threshold, PERMUTATIONS, bands_for(threshold))
    stay: list[tuple[str, RMinHash]] = []  # the index knows them by their place here
    for batch in batches(ordered):
        for line in batch.to_pylist():
            sketch = sketches.pop(line["row"])
            # sorted: of several the earliest stays
            near = sorted(index.query(sketch))
            # bands only propose, the sketches decide
            first = next((k for k in near if stay[k][1].jaccard(sketch) >= threshold), None)
            if first is None:
                # only what stays: else a chain of similar ones drifts away from its first
                index.insert(len(stay), sketch)
                stay.append((line["id"], sketch))
            else:
                yield line["row"], stay[first][0]
        progress(len(batch))
