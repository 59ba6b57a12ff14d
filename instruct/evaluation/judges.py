"""Judges: what scores answers, by one spec for every command.

    scripted            cheerful, clean text (`instruct/evaluation/scripted.py`)
    scripted:MODEL      and it fits its prompt by MODEL, ends, and repeats nothing
    reward:PATH         a reward model
    logprob:MODEL       mean log-probability of a token of the answer under MODEL
    module:function     a function of yours, (prompts, completions, **columns) -> numbers

`llm:MODEL@URL` (`instruct/evaluation/llm_judge.py`) compares answers instead, two by two.

A model is loaded at the first call, once for all judges that ask it, until they are `off()`.
"""

import gc
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.checks.model_limits import limits_of
from instruct.checks.score_functions import ScoreFunction, check_lists, checked_scores
from instruct.errors import UserError
from instruct.evaluation.likelihoods import LogLikelihood, log_likelihoods
from instruct.evaluation.llm_judge import KIND, is_llm
from instruct.evaluation.scripted import (
    LABELERS,
    ScriptedReader,
    scripted_reward,
    word_lists,
)
from instruct.run.fingerprints import content_of, model_identity
from instruct.tokens import (
    answer_text,
    as_messages,
    as_text,
    encode_completion,
    encode_pairs,
    load_tokenizer,
    template_columns,
)

KEPT = 50_000  # pairs whose log-probability is known, before they are forgotten
# What else could have been asked: everyday questions, so that an answer for any of them shows.
OTHER_PROMPTS = (
    "What did you do last weekend?",
    "What kind of music do you like?",
    "Where are you from?",
    "How was your day so far?",
    "What is your favorite food?",
    "Do you have any pets?",
    "What are you studying in school?",
    "Have you seen any good movies lately?",
)


################
# Log-probabilities
################


def words_of(completion: str | list[dict]) -> str:
    """An answer without the blanks around its words."""
    return answer_text(completion).strip()


def other_prompt(prompt: str | list[dict]) -> list[dict]:
    """The same conversation, had something else been asked; the same for a prompt at any time.

    One of `OTHER_PROMPTS`, never what was asked, in place of all turns. What would stand around any
    question stays: the system message, and the beginning of an answer that is to be continued.
    """
    messages = as_messages(prompt)
    first = messages[:1] if messages[0].get("role") in ("system", "developer") else []
    begun = messages[-1:] if messages[-1].get("role") == "assistant" else []
    turns = messages[len(first) : len(messages) - len(begun)]
    asked = as_text([(turns or messages)[-1]])
    number = hashlib.md5(asked.encode("utf-8", "replace"), usedforsecurity=False).digest()[0]
    others = [o for o in OTHER_PROMPTS if o.casefold() != asked.strip().casefold()]
    # by the whole list, so that one that is left out moves nothing else
    other = OTHER_PROMPTS[number % len(OTHER_PROMPTS)]
    other = other if other in others else others[number % len(others)]
    return [*first, {"role": "user", "content": other}, *begun]


################
# Judges that ask a model
################


class _Loaded:
    """What a path held when it was loaded, and the log-probabilities that it was asked for."""

    def __init__(self, what):
        self.what = what
        self.known: dict[tuple[tuple[int, ...], tuple[int, ...]], LogLikelihood] = {}


# judges of one model share it; gone when none of them holds it
_shared: weakref.WeakValueDictionary[tuple, _Loaded] = weakref.WeakValueDictionary()


class ModelJudge:
    """A score function that asks a model, loaded at the first call.

    Args:
        path: folder or Hub id.
        dtype: of its weights; in half precision scores depend on their batch.
    """

    name = "model"
    shares_prompts = False

    def __init__(self, path: str, dtype: str = "float32"):
        self.path, self.dtype = str(path), dtype
        self.__name__ = self.name
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def _load(self):
        raise NotImplementedError

    def check(self) -> None:
        """Raises `UserError` where nothing is there that could be asked."""
        raise NotImplementedError

    @property
    def loaded(self):
        """What was loaded: of a causal LM, the model and its tokenizer."""
        if self._loaded is None:
            # by content: what lies at the same path may be another model by now
            key = (self._load.__func__, content_of(self.model_identity()), self.dtype)
            self._loaded = _shared.get(key)
            if self._loaded is None:
                self._loaded = _shared[key] = _Loaded(self._load())
        return self._loaded.what

    def off(self) -> None:
        """Lets go of the model: no memory once no judge holds it, loaded again by a call."""
        self._loaded = None
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.memory.empty_cache()

    def model_identity(self) -> dict:
        """What identifies the model, see `instruct.run.fingerprints`."""
        return model_identity(self.path)


class _CausalJudge(ModelJudge):
    """Of a causal LM, or an adapter."""

    what: str  # it gives, in a message
    shares_prompts = True  # answers to one prompt cost less together

    def __call__(self, prompts: list, completions: list, **columns) -> list[float]:
        """One number a completion.

        Args:
            prompts: texts or messages.
            completions: texts, or one assistant message each.
            columns: `tools` and `chat_template_kwargs` of each prompt count; others do not.

        Raises:
            UserError: not two lists of one length, a row the model cannot take, or no finite
                number.
        """
        check_lists(prompts, completions)
        what = f"{self.what} by {self.path}"
        words = [words_of(completion) for completion in completions]
        scores = self._scores(prompts, words, what, template_columns(columns))
        return checked_scores(scores, what, completions)

    def _scores(self, prompts: list, words: list[str], what: str, columns: dict) -> list[float]:
        raise NotImplementedError

    def _log_likelihoods(
        self, pairs: list[tuple[list[int], list[int]]], what: str
    ) -> list[LogLikelihood]:
        model, known = self.loaded[0], self._loaded.known
        limits = limits_of(model.config)
        for number, (prompt, completion) in enumerate(pairs, 1):
            limits.check(prompt + completion, f"{what}, text {number}")
        # judges of one model ask it the same: the labeler who reads, and the fit of a report
        if len(known) > KEPT:
            known.clear()
        keys = [(tuple(prompt), tuple(completion)) for prompt, completion in pairs]
        new = list(dict.fromkeys(key for key in keys if key not in known))
        known.update(zip(new, log_likelihoods(model, new, what), strict=True))
        return [known[key] for key in keys]

    def check(self) -> None:
        from instruct.models import load_limits, policy_source

        folder, _, source = policy_source(self.path, self.dtype)
        load_limits(source, load_tokenizer(folder))

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from instruct.models import load_policy

        return load_policy(self.path, self.dtype)


class Fit(_CausalJudge):
    """log p(answer | prompt) - log p(answer | another prompt) under a causal LM, in nats.

    Near 0 for what would be said to anybody. Summed over the answer's own tokens, without the end:
    an answer of no tokens fits nothing, 0.
    """

    name, what = "fit", "the fit"

    def _scores(self, prompts: list, words: list[str], what: str, columns: dict) -> list[float]:
        _, tokenizer = self.loaded
        # the joint of a template alone fits nothing
        some = [i for i, text in enumerate(words) if encode_completion(tokenizer, text)[:-1]]
        others = [other_prompt(prompt) for prompt in prompts]
        pairs = []
        for asked in (prompts, others):
            ids = encode_pairs(tokenizer, asked, words, columns)
            pairs += [ids[i] for i in some]
        # with the end, and then left out: so `LogProb` of the same answers asks nothing new
        found = [likelihood.without_end for likelihood in self._log_likelihoods(pairs, what)]
        fits = [0.0] * len(prompts)
        for i, own, other in zip(some, found[: len(some)], found[len(some) :], strict=True):
            fits[i] = own - other
        return fits


class LogProb(_CausalJudge):
    """Mean log-probability of a token of an answer under a causal LM, in nats.

    The end of the turn is one of the tokens.
    """

    name, what = "logprob", "the log-probability"

    def _scores(self, prompts: list, words: list[str], what: str, columns: dict) -> list[float]:
        _, tokenizer = self.loaded
        pairs = encode_pairs(tokenizer, prompts, words, columns)
        found = self._log_likelihoods(pairs, what)
        return [known.total / len(answer) for known, (_, answer) in zip(found, pairs, strict=True)]


class RewardJudge(ModelJudge):
    """The score of the reward model at `path`."""

    name = "reward"

    def check(self) -> None:
        # loaded now, and kept: whether its head was trained is not known before
        self.loaded  # noqa: B018

    def _load(self):
        from instruct.models import load_reward

        return load_reward(self.path, dtype=self.dtype)

    def __call__(self, prompts: list, completions: list, **columns) -> list[float]:
        """One number a completion."""
        # only now: until the first call the device is for those who answer
        self.loaded.model.to(PartialState().device)
        return self.loaded.score(prompts, completions, **template_columns(columns))


################
# By a spec
################

BY_MODEL: dict[str, Callable[[str], ModelJudge]] = {
    "scripted": Fit,
    "reward": RewardJudge,
    "logprob": LogProb,
}


def judge_model(spec: str | None) -> str | None:
    """The path or id of the model that a judge asks; None where it asks none."""
    kind, _, path = (spec or "").partition(":")
    return path or None if kind in BY_MODEL else None


def is_judge(labeler: object) -> bool:
    """Whether who ranked a row, as its `labeler` says, is one of these and no person."""
    if not isinstance(labeler, str):
        return False
    kind, colon, _ = labeler.partition(":")
    return labeler in LABELERS or bool(colon) and kind in ("reward", KIND)


def judge_of(spec: str, flag: str) -> ScoreFunction:
    """The score function (prompts, completions, **columns) -> floats that a spec stands for.

    Args:
        spec: see the top of this file.
        flag: where it was given, for messages: `--judge`.

    Raises:
        UserError: no such judge, no model there, or a package is missing.
    """
    kind, _, path = spec.partition(":")
    if is_llm(spec):
        raise UserError(
            f"{flag} {spec}: an LLM judge compares answers and scores none; it is one for "
            "data_prep.label --labeler and recipes/evaluate.py --judge"
        )
    if kind not in BY_MODEL:
        from instruct.arguments import load_function

        return load_function(spec, flag)
    if spec == "scripted":
        word_lists()
        return scripted_reward
    if not path:
        raise UserError(
            f"{flag} {spec} names no model: write it as {kind}:MODEL, a folder or a Hub id"
        )
    if path.isidentifier() and Path(f"{kind}.py").is_file() and not Path(path).is_dir():
        raise UserError(
            f"{flag} {spec}: a model called {path}, or a function of {kind}.py? Give the model as "
            f"{kind}:./{path}, or the function's file another name"
        )
    judge = BY_MODEL[kind](path)
    try:
        judge.check()
    except UserError as error:
        raise UserError(f"{flag} {spec}: {error}") from error
    if kind != "scripted":
        return judge
    word_lists()
    return ScriptedReader(judge)
