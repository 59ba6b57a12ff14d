"""Step 5: prompts that say nearly what an earlier one says (MinHash over word triples)."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.prompt_pipeline.engine import batches
from data_prep.prompt_pipeline.overlap import words_of
from instruct.files import UserError

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
    """Word triples; fewer words are one shingle, and so is a text without any."""
    words = words_of(prompt)
    if not words:
        # emoji alone, say: the same text is still the same
        return [prompt]
    return [" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1))]


def find_near_duplicates(
    folder: Path, threshold: float, seed: int, progress: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    """(row, id of the one that stays) of prompts to which an earlier kept one is similar.

    Args:
        folder: `row, id, prompt`, the earliest first.
        threshold: estimated Jaccard similarity from which on a prompt goes.

    Raises:
        UserError: rensa is not installed.
    """
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError as error:
        raise UserError(
            "--near_duplicates needs rensa: pip install 'instruct-recipes[near]'"
        ) from error
    # not parallel: each prompt is held against those that stay, so order decides
    index = RMinHashLSH(threshold, PERMUTATIONS, bands_for(threshold))
    ids: list[str] = []  # of the prompts that stay; the index knows them by their place here
    sketches: list[RMinHash] = []
    for batch in batches(folder):
        for line in batch.to_pylist():
            # masked: seeds may be negative
            sketch = RMinHash(PERMUTATIONS, seed & 0x7FFFFFFF)
            sketch.update(shingles(line["prompt"]))
            # sorted: of several the earliest stays
            near = sorted(index.query(sketch))
            # bands only propose, the sketches decide
            first = next((k for k in near if sketches[k].jaccard(sketch) >= threshold), None)
            if first is None:
                # only what stays: else a chain of similar ones drifts away from its first
                index.insert(len(ids), sketch)
                ids.append(line["id"])
                sketches.append(sketch)
            else:
                yield line["row"], ids[first]
        progress(len(batch))
