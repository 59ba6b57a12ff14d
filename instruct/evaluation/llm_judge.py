"""An LLM as judge, over any OpenAI-compatible server: which of two answers is better.

    llm:MODEL@URL       llm:Qwen/Qwen2.5-7B-Instruct@http://localhost:8000/v1

A pair is asked about twice, each answer once as A, and is a tie where the two replies disagree:
such judges favour a place (Zheng et al. 2023, arXiv 2306.05685, 3.4 "Addressing limitations"). What
is asked stands in llm_judge_prompt.md beside this file, or in the user's own file. Retries are the
client's: 408, 409, 429, 5xx and connections that break, with a backoff from 0.5 to 8 seconds or as
the server says. A key is read from OPENAI_API_KEY, and kept nowhere.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from instruct.errors import UserError
from instruct.hashes import hash_of
from instruct.plain_text import one_line
from instruct.rendering import as_messages, as_text
from instruct.rows.encodings import read_text

KIND = "llm"
PROMPT = Path(__file__).with_name("llm_judge_prompt.md")
KEY = "OPENAI_API_KEY"  # the environment's; servers of one's own need none
PLACES = re.compile(r"\{(prompt|answer_a|answer_b)\}")
THOUGHT = re.compile(r"^\s*<think>", re.MULTILINE)  # one that has no end; not one that is quoted
VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
WON = {"A": 1.0, "B": 0.0, "C": 0.5}  # by the answer that stood first
AT_A_TIME = 8  # requests under way
FIRST_RETRIES = 2  # until the server has answered once: a wrong URL is told in two seconds
RETRIES = 8  # then: about 40 s, in which a server can start anew
TIMEOUT = 600.0  # seconds for one reply; a model may think before it answers
UNREADABLE = 0.1  # a larger share of replies without a verdict is no judge
ENOUGH = 40  # replies after which that share is looked at before the end
SHOWN = 80  # characters of a reply in a message

# what the two orders say of a pair, by the first answer: 1 won, 0.5 tie, 0 lost, None unreadable;
# empty where both answers are one text, of which nobody is asked
Verdict = Sequence[float | None]


def outcome(verdict: Verdict) -> float:
    """1 where both orders prefer the first answer, 0 where both prefer the second, else 0.5."""
    one, other = verdict or (0.5, 0.5)
    return one if one == other and one is not None else 0.5


class Pair(NamedTuple):
    """A prompt (text or messages) and two answers to it."""

    prompt: str | list[dict]
    first: str
    second: str


@dataclass
class Tally:
    """What replies came to: `disagreed` of `pairs` were read in both orders, which disagreed.

    Equal texts are pairs, but give no replies: many of them do not make a judge readable.
    """

    replies: int = 0
    unreadable: int = 0
    pairs: int = 0
    disagreed: int = 0

    def add(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            unread = sum(found is None for found in verdict)
            self.pairs += 1
            self.replies += len(verdict)
            self.unreadable += unread
            self.disagreed += not unread and len(set(verdict)) > 1

    def sentence(self) -> str:
        return (
            f"{self.disagreed} of {self.pairs} pairs tied as the two orders disagree, "
            f"{self.unreadable} of {self.replies} replies unreadable"
        )


def verdict_in(reply: str | None) -> str | None:
    """ "A", "B" or "C" (neither) of a reply; None where it has no verdict, or several.

    What a model thinks between `<think>` and `</think>` is not what it says.
    """
    said = THOUGHT.split((reply or "").rpartition("</think>")[2])[0]
    found = set(VERDICT.findall(said))
    bare = said.strip().strip(".*").upper()
    if not found and bare in WON:
        return bare
    return found.pop() if len(found) == 1 else None


def ranks_from_wins(count: int, outcomes: Iterable[tuple[int, int, float]]) -> list[int]:
    """Dense ranks of `count` answers from all their pairs (1 = best, equal = tie).

    By Copeland's score: one point a win, half a point a tie (Saari and Merlin 1996, The Copeland
    method). Pairs that go round in a circle are so a tie.

    Args:
        outcomes: (i, j, what `outcome` says of i against j).
    """
    points = [0.0] * count
    for i, j, won in outcomes:
        points[i] += won
        points[j] += 1 - won
    places = {score: place for place, score in enumerate(sorted(set(points), reverse=True), 1)}
    return [places[score] for score in points]


################
# By a spec
################


def is_llm(spec: str) -> bool:
    """Whether a spec names an LLM judge, well or badly."""
    return spec.partition(":")[0] == KIND


def llm_judge_of(spec: str, flag: str, prompt: Path | None = None) -> "LLMJudge":
    """The judge that `llm:MODEL@URL` stands for; its server is not asked yet.

    Args:
        flag: where it was given, for messages.
        prompt: a file in place of llm_judge_prompt.md.

    Raises:
        UserError: no model or no URL in it, a key in the URL, a prompt file without its places, or
            the client is not installed.
    """
    found = re.fullmatch(rf"{KIND}:(.+)@(https?://\S+)", spec)
    if found is None:
        raise UserError(
            f"{flag} {spec}: write it as llm:MODEL@URL, with the name that the server gives its "
            "model: llm:Qwen/Qwen2.5-7B-Instruct@http://localhost:8000/v1"
        )
    model, url = found.groups()
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (looked at here alone)
    except ValueError as error:
        raise UserError(f"{flag}: the URL of {KIND}:{model} is none ({error})") from error
    # records hold the spec
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"{flag}: the URL of {KIND}:{model} holds more than a server and a path; give a key by "
            f"the environment variable {KEY}"
        )
    bare = parts.path in ("", "/")
    url = url.rstrip("/").removesuffix("/chat/completions") + ("/v1" if bare else "")
    _openai(flag, spec)
    return LLMJudge(model, url, _template(prompt or PROMPT))


def check_prompt_flag(prompt: Path | None, specs: Iterable[str]) -> None:
    """Refuses `--judge_prompt` where no LLM judges. Raises `UserError`."""
    if prompt is not None and not any(map(is_llm, specs)):
        raise UserError("--judge_prompt is what an LLM is asked; give one, llm:MODEL@URL, too")


def _openai(flag: str, spec: str):
    # imported here: an extra, and it takes a second
    try:
        import openai
    except ImportError as error:
        raise UserError(
            f"{flag} {spec} needs the package {error.name}: pip install -e '.[judge]'"
        ) from error
    return openai


def _template(file: Path) -> str:
    text = read_text(file, f"--judge_prompt {file}")
    missing = {"prompt", "answer_a", "answer_b"} - set(PLACES.findall(text))
    if missing:
        places = " and ".join(f"{{{name}}}" for name in sorted(missing))
        raise UserError(f"--judge_prompt {file}: has no {places}, where the text to judge goes")
    if not set(WON) <= set(VERDICT.findall(text)):
        raise UserError(
            f"--judge_prompt {file}: has to ask for [[A]], [[B]] or [[C]] (neither), which is what "
            "is read in the reply"
        )
    return text


################
# The judge
################


class LLMJudge:
    """Compares answers by asking a model behind an OpenAI-compatible server.

    Args:
        model: the server's name of it.
        url: up to `/v1`.
        template: text with {prompt}, {answer_a} and {answer_b}.
    """

    def __init__(self, model: str, url: str, template: str):
        self.model, self.url, self.template = model, url, template
        # the folder alone: a path is of one machine
        self.name = Path(model).name if model.startswith(("/", ".", "~")) else model
        self.tally = Tally()
        self._sends: dict = {"temperature": 0}
        self._heard, self._unread = False, ""

    def __repr__(self) -> str:
        return f"LLMJudge({self.model!r}, {self.url!r})"

    def identity(self) -> dict:
        """What a cache is keyed by. The weights behind a name are the server's affair."""
        return {"model": self.model, "url": self.url, "prompt": hash_of(self.template)}

    def verdicts(self, pairs: Sequence[Pair]) -> list[list[float | None]]:
        """What the two orders say of each pair, see `Verdict`; equal texts are a tie unasked.

        Raises:
            UserError: the server is not there, refuses, or gives no answer after all retries.
        """
        asked = [pair for pair in pairs if pair.first != pair.second]
        texts = [text for pair in asked for text in (self._text(pair), self._text(swapped(pair)))]
        names = [one_line(_asked_in(pair), SHOWN) for pair in asked for _ in range(2)]
        replies = iter(self._replies(texts, names))
        found = []
        for pair in pairs:
            if pair.first == pair.second:
                found.append([])
                continue
            one, other = next(replies), next(replies)
            # the second one was asked the other way round
            found.append([
                None if one is None else WON[one],
                None if other is None else 1 - WON[other],
            ])  # fmt: skip
        return found

    def add(self, verdicts: Iterable[Verdict], is_last: bool = False) -> None:
        """Counts verdicts, new ones and those that an earlier run has kept.

        Raises:
            UserError: more than a tenth of all replies so far cannot be read.
        """
        self.tally.add(verdicts)
        seen, unread = self.tally.replies, self.tally.unreadable
        if (is_last or seen >= ENOUGH) and unread > UNREADABLE * seen:
            shown = f", one says {self._unread!r}" if self._unread else ""
            raise UserError(
                f"{self.name} at {self.url}: {unread} of {seen} replies hold no verdict [[A]], "
                f"[[B]] or [[C]]{shown}; take a larger model, or write --judge_prompt for this one"
            )

    def _text(self, pair: Pair) -> str:
        words = {"prompt": _asked_in(pair), "answer_a": pair.first, "answer_b": pair.second}
        # all at once: a {prompt} in an answer is the answer's
        return PLACES.sub(lambda place: words[place[1]], self.template)

    def _replies(self, texts: list[str], names: list[str]) -> list[str | None]:
        """The verdict in the reply to each text, `AT_A_TIME` of them asked at once.

        Args:
            names: what a text is about, for messages.
        """
        return asyncio.run(self._gather(list(zip(texts, names, strict=True)))) if texts else []

    async def _gather(self, texts: list[tuple[str, str]]) -> list[str | None]:
        openai = _openai("llm:", self.model)
        gate = asyncio.Semaphore(AT_A_TIME)

        async def ask(client, text: tuple[str, str]) -> str | None:
            async with gate:
                return await self._reply(client, openai, *text)

        # cancelled, it ends at once: threads would sleep through their retries first
        async with openai.AsyncOpenAI(
            base_url=self.url, api_key=os.environ.get(KEY) or "none", timeout=TIMEOUT
        ) as client:
            heard = []
            # alone, and with little patience, until the server has answered once
            if not self._heard:
                heard = [await ask(client.with_options(max_retries=FIRST_RETRIES), texts[0])]
                self._heard = True
            patient = client.with_options(max_retries=RETRIES)
            rest = texts[len(heard) :]
            return heard + list(await asyncio.gather(*(ask(patient, text) for text in rest)))

    async def _reply(self, client, openai, text: str, name: str) -> str | None:
        try:
            found = await self._completion(client, openai, text)
        except openai.APIError as error:
            raise UserError(f"{self.name} at {self.url} {_told(openai, error, name)}") from error
        reply = _content_of(found)
        if reply is None:
            raise UserError(f"{self.url} is no server of chat completions; look at the URL")
        verdict = verdict_in(reply)
        if verdict is None:
            self._unread = one_line(reply, longest=SHOWN)
        return verdict

    async def _completion(self, client, openai, text: str):
        asked = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        sends = self._sends
        try:
            return await client.chat.completions.create(**asked, **sends)
        except openai.BadRequestError as error:
            # models that think take no temperature
            if not sends or "temperature" not in str(error):
                raise
            self._sends = {}
            return await client.chat.completions.create(**asked)


def swapped(pair: Pair) -> Pair:
    return Pair(pair.prompt, pair.second, pair.first)


def _asked_in(pair: Pair) -> str:
    """The prompt of a pair as text; who said what matters from two turns on."""
    messages = as_messages(pair.prompt)
    if len(messages) < 2:
        return as_text(messages)
    return "\n\n".join(f"{m.get('role', 'user')}: {as_text([m])}" for m in messages)


def _content_of(found) -> str | None:
    """The words of a reply, none where the model said nothing; None of what is no reply."""
    choices = getattr(found, "choices", None)
    if not isinstance(choices, list):
        return None
    if not choices:
        return ""
    # the client checks no types
    message = getattr(choices[0], "message", None)
    content = getattr(message, "content", None)
    if message is None or not isinstance(content, str | None):
        return None
    return content or ""


def _told(openai, error, name: str) -> str:
    """What an error of the client says of a question, as the end of a sentence."""
    more = "; what was answered so far is kept, run this again to go on"
    said = one_line(str(error), longest=200)
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        # servers quote the key
        return f"refuses the key; set the environment variable {KEY}"
    if isinstance(error, openai.NotFoundError):
        return f"is not there: look at the model's name and the URL, which ends in /v1 ({said})"
    # too long for its context, say: asked again, it says the same
    if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return (
            f"refuses what it is asked of the prompt {name!r} ({said}); where it is too "
            "long, leave that row out, or serve a model that takes it; what was answered so far is "
            "kept"
        )
    if isinstance(error, openai.APITimeoutError):
        return f"did not answer in {TIMEOUT:.0f} seconds{more}"
    if isinstance(error, openai.APIConnectionError):
        return f"does not answer; start the server, or look at the URL{more}"
    return f"does not answer what it is asked ({said}){more}"
