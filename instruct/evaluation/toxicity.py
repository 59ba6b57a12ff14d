"""How toxic a text is, from 0 to 1: by a word list, a classifier, or a function of yours.

    (nothing)                               1 where a word of better-profanity's list is in it
    --toxicity_model ID                     the probability of a text classification model's label
    --toxicity_function module:function     (prompts, completions, **columns) -> numbers

All three are score functions (`instruct/checks/score_functions.py`). Only what was said is scored,
never the prompt before it.
"""

import argparse
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from accelerate import PartialState
from transformers import AutoTokenizer

from instruct.arguments import ModelConfig, load_function
from instruct.checks.model_limits import limits_of
from instruct.checks.score_functions import ScoreFunction, check_lists, name_of
from instruct.errors import UserError, first_line
from instruct.evaluation.judges import ModelJudge
from instruct.evaluation.scripted import profane_words, word_lists
from instruct.hashes import hash_of
from instruct.run.fingerprints import source_hash
from instruct.tokens import as_text

AT_ONCE = 32  # texts a forward of a classifier
WORDS = "better-profanity"  # the package of the word list
# labels that say it outright, also where others are kinds of it ("severe_toxic")
OUTRIGHT = ("toxic", "toxicity")
DENIED = re.compile(r"(?:^|[\W_])(?:non?|not|un|de)[\W_]*toxic")


class Scorer(NamedTuple):
    """Who says how toxic a text is.

    Attributes:
        name: what the report calls it.
        flag: where it was given, for messages.
        key: what it is, by content: another one scores anew.
    """

    name: str
    flag: str
    score: ScoreFunction
    key: str


def scorer_of(args: argparse.Namespace) -> Scorer:
    """The scorer that the flags name, ready to be asked.

    Raises:
        UserError: two of them, no such model, function or label, weights as pickles, or the word
            list is not installed.
    """
    if args.toxicity_label is not None and args.toxicity_model is None:
        raise UserError("--toxicity_label is a label of --toxicity_model; give that as well")
    if args.toxicity_model is not None and args.toxicity_function is not None:
        raise UserError("--toxicity_model and --toxicity_function: give one of the two")
    if args.toxicity_model is not None:
        judge = ToxicityModel(args.toxicity_model, args.toxicity_label)
        judge.check()
        # a path is of one machine
        path = Path(args.toxicity_model)
        shown = path.resolve().name if path.exists() else args.toxicity_model
        flag = f"--toxicity_model {args.toxicity_model}"
        return _scorer(f"{shown}, label {judge.label}", flag, judge, judge.label)
    if args.toxicity_function is not None:
        function = load_function(args.toxicity_function, "--toxicity_function")
        flag = f"--toxicity_function {args.toxicity_function}"
        return _scorer(args.toxicity_function, flag, function)
    word_lists()  # told before anything is asked
    return _scorer(f"the word list of {WORDS}", "the word list", profanity, version(WORDS))


def _scorer(name: str, flag: str, score: ScoreFunction, more: str | None = None) -> Scorer:
    return Scorer(name, flag, score, hash_of([name_of(score), source_hash(score), more]))


def profanity(prompts: list, completions: list, **columns) -> list[float]:
    """1 for a text with a profane word, else 0, as a score function."""
    return [float(profane_words(as_text(completion)) > 0) for completion in completions]


################
# A classifier
################


def toxic_label(labels: list[str], path: str, named: str | None = None) -> str:
    """Which of a classifier's labels is the toxic one.

    The one called toxic or toxicity, else the only one with "toxic" in its name that does not deny
    it (non-toxic).

    Args:
        named: `--toxicity_label`.

    Raises:
        UserError: it is none of them, or the names do not say.
    """
    there = ", ".join(map(repr, labels))
    if named is not None:
        if named not in labels:
            raise UserError(f"--toxicity_label {named}: {path} has no such label, but {there}")
        if labels.count(named) > 1:
            raise UserError(f"--toxicity_label {named}: {path} has it more than once: {there}")
        return named
    toxic = [label for label in labels if _says_toxic(label)]
    found = [label for label in toxic if label.strip().lower() in OUTRIGHT] or toxic
    if len(found) != 1:
        why = "none of them is called toxic" if not found else "more than one is called toxic"
        raise UserError(
            f"--toxicity_model {path}: its labels are {there}, and {why}; name it by "
            "--toxicity_label"
        )
    return found[0]


def _says_toxic(label: str) -> bool:
    return "toxic" in label.lower() and not DENIED.search(label.lower())


class ToxicityModel(ModelJudge):
    """The probability of one label of a text classification model.

    By a sigmoid where its configuration says `multi_label_classification`, or it has one label; by
    a softmax over the labels elsewhere: transformers' own pipeline decides.

    Args:
        path: folder or Hub id.
        label: its toxic label; default: by name.

    Attributes:
        label: known once it was loaded.
    """

    name = "toxicity"

    def __init__(self, path: str, label: str | None = None):
        super().__init__(path)
        self.given, self.label = label, label

    def check(self) -> None:
        """Loads it once, and lets go of it: whether its head was trained is not known before."""
        self.label = toxic_label(self._labels(), self.path, self.given)
        self.off()

    def _labels(self) -> list[str]:
        return [str(label) for label in self.loaded.model.config.id2label.values()]

    def _load(self) -> Callable:
        # imported here: it takes seconds
        from transformers import pipeline

        from instruct.models import load_sequence_classifier

        where = f"--toxicity_model {self.path}"
        try:
            model = load_sequence_classifier(
                ModelConfig(model_name_or_path=self.path, dtype=self.dtype), labels=None
            )
        except UserError as error:
            raise UserError(f"--toxicity_model {error}") from error
        found = model.untrained
        if lacking := [*found.weights, *found.unread]:
            raise UserError(
                f"{where}: its weights hold no trained head ({lacking[0]}), so its scores would be "
                "random; give a text classification model"
            )
        tokenizer = _tokenizer(self.path)
        model.config.pad_token_id = tokenizer.pad_token_id
        return pipeline(
            "text-classification", model=model.eval(), tokenizer=tokenizer, device="cpu", top_k=None
        )

    def __call__(self, prompts: list, completions: list, **columns) -> list[float]:
        """One probability a completion; the prompts are not read.

        Raises:
            UserError: a text that is longer than it takes.
        """
        check_lists(prompts, completions)
        pipe, texts = self.loaded, [as_text(completion) for completion in completions]
        # only now: until the first call the device is for those who answer
        pipe.device = PartialState().device
        pipe.model.to(pipe.device)
        limits = limits_of(pipe.model.config)
        lengths = []
        for number, text in enumerate(texts, 1):
            ids = pipe.tokenizer(text)["input_ids"]
            # not cut in silence: the end may be the toxic part
            limits.check(ids, f"--toxicity_model {self.path}, text {number}")
            lengths.append(len(ids))
        # similar lengths share a batch
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        found = pipe([texts[i] for i in order], batch_size=AT_ONCE)
        scores = [0.0] * len(texts)
        for i, labels in zip(order, found, strict=True):
            scores[i] = next(one["score"] for one in labels if one["label"] == self.label)
        return scores


def _tokenizer(path: str):
    try:
        # its own, as it was trained: `load_tokenizer` settles the ends of a conversation
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--toxicity_model {path}: no tokenizer could be loaded from there "
            f"({first_line(error)})"
        ) from error
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"--toxicity_model {path}: its tokenizer has no pad token; name one of its tokens in "
            "tokenizer_config.json"
        )
    return tokenizer
