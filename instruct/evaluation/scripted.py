"""The scripted labeler of the demo, who stands in for people: his taste is known exactly.

He likes cheerful, clean text: VADER's compound sentiment (-1 to 1) minus the number of profane
words `better-profanity` finds. The other one, who reads the prompt, also likes answers that fit it,
end, and repeat nothing (`ScriptedReader`). A learned reward can be held against either.
"""

import functools
import re
from collections.abc import Callable, Iterable

from instruct.errors import UserError
from instruct.one_bar import progress
from instruct.tokens import as_messages, as_text

# who ranked, as rows and records have it: no path of a machine is in it
SCRIPTED, READER = "scripted", "scripted that reads the prompt"
SCRIPTED_TIE = 0.3  # of his points: two answers that are closer, nobody would call unequal
LABELERS = (SCRIPTED, READER)

FIT_PER_NAT = 0.1  # how much a nat of fit counts; a point is VADER's from neutral to delighted
LEAST_FIT, MOST_FIT = -0.5, 1.0  # so that fit never outweighs the rest
UNFINISHED, REPEATED = 0.5, 0.5  # what is taken off a cut-off answer, and one of repetitions alone
# a full stop and its kind, perhaps in quotes or brackets
END_OF_SENTENCE = re.compile(r"[.!?。！？]['\"’”»)\]}）」』]*$")


def spoken_name(labeler: str) -> str:
    """A labeler in a sentence: "the scripted labeler", or the name as it is."""
    if labeler not in LABELERS:
        return labeler
    return f"the scripted labeler{labeler.removeprefix(SCRIPTED)}"


################
# Cheerful and clean
################


@functools.cache
def word_lists():
    """VADER's analyzer and better-profanity's list.

    Raises:
        UserError: one of the two is not installed.
    """
    try:
        from better_profanity import profanity
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError(
            f"the scripted labeler needs {error.name}: pip install -e '.[demo]'"
        ) from error
    profanity.load_censor_words()
    return SentimentIntensityAnalyzer(), profanity


@functools.lru_cache(maxsize=100_000)
def is_profane(word: str) -> bool:
    """Whether better-profanity's list (with spelling variants) has this word; slow, so cached."""
    return word_lists()[1].contains_profanity(word)


def profane_words(text: str) -> int:
    """How many words of a text are profane."""
    # word by word, as the cache then answers nearly always
    return sum(map(is_profane, re.findall(r"[^\s.,!?;:\"()]+", text.lower())))


def scripted_score(text: str) -> float:
    """Score of one completion, higher is better: VADER compound minus profane words."""
    return word_lists()[0].polarity_scores(text)["compound"] - profane_words(text)


def scripted_reward(prompts: list, completions: list[str], **columns) -> list[float]:
    """The scripted score as a TRL-style reward function, for `recipes/ppo.py --reward_funcs`."""
    scores = []
    with progress(len(completions), "scripted labeler") as update:
        for text in completions:
            scores.append(scripted_score(text))
            update(1)
    return scores


################
# Who reads the prompt
################


def is_finished(text: str) -> bool:
    """Whether a text ends in a full stop, `!` or `?`, perhaps before a quote or a bracket."""
    return END_OF_SENTENCE.search(text.strip()) is not None


def _trigrams(text: str) -> list[tuple[str, str, str]]:
    words = re.findall(r"[\w']+", text.lower())
    return list(zip(words, words[1:], words[2:], strict=False))


def repeated_share(prompt: str | list[dict], text: str) -> float:
    """Share of a text's word trigrams that stand earlier in it, or in a message of the prompt.

    0 for a text of fewer than three words.
    """
    seen = {t for message in as_messages(prompt) for t in _trigrams(as_text([message]))}
    trigrams, repeated = _trigrams(text), 0
    for trigram in trigrams:
        repeated += trigram in seen
        seen.add(trigram)
    return repeated / len(trigrams) if trigrams else 0.0


def _clip(value: float, low: float, high: float) -> float:
    # `min` and `max` would turn NaN into an end of the range
    return value if value != value else max(low, min(high, value))


def reading_score(prompt: str | list[dict], text: str, fit: float) -> float:
    """What the labeler who reads the prompt thinks of an answer, from -2.5 to 2.

    Args:
        fit: log p(answer | prompt) - log p(answer | another prompt), in nats.
    """
    return (
        _clip(scripted_score(text), -1.0, 1.0)
        + _clip(FIT_PER_NAT * fit, LEAST_FIT, MOST_FIT)
        - (0.0 if is_finished(text) else UNFINISHED)
        - REPEATED * repeated_share(prompt, text)
    )


class ScriptedReader:
    """The scripted labeler who reads the prompt, as a score function.

    Without him, the best answer to every prompt is one cheerful phrase.

    Args:
        fit: (prompts, completions, **columns) -> nats, `instruct.evaluation.judges.Fit`.
    """

    shares_prompts = True  # as `fit` does

    def __init__(self, fit: Callable[..., list[float]]):
        self.fit = fit
        self.__name__ = "scripted_reader"

    def __call__(self, prompts: list, completions: Iterable, **columns) -> list[float]:
        """Scores of answers (text, or one message each) to prompts (text or messages)."""
        fits = self.fit(prompts, completions, **columns)
        return [
            reading_score(prompt, as_text(completion), fit)
            for prompt, completion, fit in zip(prompts, completions, fits, strict=True)
        ]

    def model_identity(self) -> dict:
        """What identifies the model that reads."""
        return self.fit.model_identity()

    def off(self) -> None:
        """Lets go of the model."""
        self.fit.off()
