"""Step 2's data: are the outputs whole, and do those who ranked them say anything?"""

from itertools import islice

from instruct.errors import UserError
from instruct.evaluation.diagnosis.run import Finding, NoData, Run
from instruct.evaluation.ranking_metrics import labeler_agreement
from instruct.evaluation.statistics import cluster_bootstrap
from instruct.files import load_rows
from instruct.ranking import key_of
from instruct.tokens import encode_completion, load_tokenizer

# Share of outputs that are cut off. The demo's limit of 24 tokens cuts a quarter.
MAX_TRUNCATED = 0.5
MOST_OUTPUTS = 2000  # that are looked at: enough for a share within 2 %
# Two labelers who order two outputs alike: the paper's did in 72.6 ± 1.5 % of pairs (3.4), chance
# is a half.
MIN_AGREEMENT = 0.6
LEAST_PAIRS = 20  # fewer agree in more than 60 % or less than 40 % by chance every other time


def samples_truncated(run: Run) -> Finding | None:
    """Most outputs that were ranked hit `--max_new_tokens`: what is ranked are beginnings."""
    file = run.place("samples.jsonl")
    if not file.is_file():
        raise NoData("no samples.jsonl")
    try:
        outputs = list(islice(_outputs(load_rows(file)), MOST_OUTPUTS))
    except UserError as error:
        raise NoData("samples.jsonl cannot be read") from error
    if not outputs:
        raise NoData("samples.jsonl does not say how its outputs were sampled")
    tokenizers, cut = {}, 0
    for model, text, limit in outputs:
        if model not in tokenizers:
            tokenizers[model] = _tokenizer(run, model)
        # its end is no token of the text: with it an output that ended is within the limit
        cut += len(encode_completion(tokenizers[model], text)) > limit
    share = cut / len(outputs)
    if share <= MAX_TRUNCATED:
        return None
    return Finding(
        "samples",
        f"sampling was cut off: {share:.0%} of the outputs reach --max_new_tokens without an end",
        {"truncated": share, "outputs": len(outputs), "max_truncated": MAX_TRUNCATED},
        "raise data_prep.sample's --max_new_tokens, or see why SFT's answers do not end",
    )


def _outputs(rows):
    """(model, text, limit) of the outputs that a model wrote."""
    for row in rows:
        every = zip(row["model"], row["completions"], row["sampling"], strict=True)
        for model, text, sampling in every:
            # None: a person's
            if sampling and sampling.get("max_new_tokens"):
                yield model, text, sampling["max_new_tokens"]


def _tokenizer(run: Run, model: str):
    # the run may have been moved
    for place in (run.place("sft", "merged"), run.place("sft")):
        if (place / "tokenizer.json").is_file():
            model = str(place)
            break
    try:
        return load_tokenizer(model)
    except UserError as error:
        raise NoData(f"the tokenizer of {model} cannot be loaded") from error


def few_preferences(run: Run) -> Finding | None:
    """Labelers called most pairs a tie (`collapse.MIN_STRICT`)."""
    check = run.check("strict_share")
    if check.holds:
        return None
    return Finding(
        "rankings",
        f"the rankings teach little: {check.reason()}",
        {"strict_share": check.value, "min_strict": check.bar},
        "lower the labeler's --tie, or rank outputs that differ more (another --temperature, "
        "several models)",
    )


def labels_contradict(run: Run) -> Finding | None:
    """Two rankings of one prompt order the same two outputs alike no more often than by chance."""
    groups: dict[int, list[dict]] = {}
    for row in run.rankings():
        groups.setdefault(key_of(row["prompt"]), []).append(row)
    # of each prompt by itself: pairs of one hang together
    found = [labeler_agreement(rows) for rows in groups.values() if len(rows) > 1]
    found = [entry for entry in found if entry]
    pairs = [entry["n_pairs"] for entry in found]
    if sum(pairs) < LEAST_PAIRS:
        raise NoData(f"only {sum(pairs)} pairs were ranked twice")
    rates = [entry["rate"] for entry in found]
    rate, low, high = cluster_bootstrap(rates, range(len(found)), weights=pairs)
    if rate >= MIN_AGREEMENT or low > 0.5:
        return None
    return Finding(
        "rankings",
        f"the labels contradict each other: of {sum(pairs)} pairs of outputs that were ranked "
        f"twice, {rate:.0%} [{low:.0%}, {high:.0%}] were ordered alike, and chance is 50 %",
        {"agreement": rate, "low": low, "high": high, "n_pairs": sum(pairs)},
        "look at what the labelers disagree on (docs/labeling.md), say in the instructions what "
        "counts, and keep those who agree with your own screening items",
    )
