"""Where an answer begins and ends: what a template writes around it, which tokens end a turn, and
which of them is trained. Decided here alone.

An instruct model may end its turn in another token than its tokenizer's eos: Gemma `<end_of_turn>`,
Phi `<|end|>`, Llama 3 `<|eot_id|>`, Qwen's base under ChatML `<|im_end|>`. Three places name such
tokens, and a model stops at any of them: the tokenizer's eos, `eos_token_id` of the model's
generation config (a number or a list), and the token with which the chat template closes an
assistant's turn. Trained is the last of these, else eos.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.errors import UserError
from instruct.processes import is_main_process

# Words no template has in itself, so that they are found in what it renders.
QUESTION, ANSWER = "Which way is north", "Turn left twice"
# In tokenizer_config.json: the token by `--eos_token`, where the template closes turns by another.
ASKED = "end_of_turn"
# There, too: what was eos until the end of a turn took its place; a document still ends in it.
TEXT_END = "end_of_text"


class TurnEnd(NamedTuple):
    """What ends an answer.

    Attributes:
        trained: the id that training and scoring put after a completion.
        ids: all that sampling stops at; `trained` comes first.
    """

    trained: int
    ids: tuple[int, ...]


class AroundAnswer(NamedTuple):
    """What the chat template writes around an assistant's words.

    Attributes:
        opening: between what the user said and the answer, in a prompt with its generation prompt.
        joint: between that and the words: Mistral's blank, Zephyr's newline, the channel of
            gpt-oss, Qwen3's empty thought. Usually empty; the model is to write it itself.
        tail: after the words.
    """

    opening: str
    joint: str
    tail: str


def around_answer(tokenizer: PreTrainedTokenizerBase) -> AroundAnswer | None:
    """What is written around an answer to one user's message; None where the template refuses a
    conversation as plain as that, or leaves out what the assistant says."""
    state = (tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    # asked for every row, as `turn_end` is
    known = getattr(tokenizer, "known_around", None)
    if known is None or known[0] != state:
        known = tokenizer.known_around = (state, _around(tokenizer))
    return known[1]


def _around(tokenizer: PreTrainedTokenizerBase) -> AroundAnswer | None:
    asked = [{"role": "user", "content": QUESTION}]
    # some want a system message
    for first in ([], [{"role": "system", "content": "Answer."}]):
        try:
            prompt = tokenizer.apply_chat_template(
                first + asked, tokenize=False, add_generation_prompt=True
            )
            answered = [*first, *asked, {"role": "assistant", "content": ANSWER}]
            text = tokenizer.apply_chat_template(answered, tokenize=False)
        # as in `closing_token`
        except Exception:
            continue
        before, words, tail = text.rpartition(ANSWER)
        if words:
            joint = before[len(prompt) :] if before.startswith(prompt) else ""
            return AroundAnswer(prompt.rpartition(QUESTION)[2], joint, tail)
    return None


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """The ends of an answer by this tokenizer; those of a model too after `agree_on_end`."""
    asked, more = tokenizer.init_kwargs.get(ASKED), getattr(tokenizer, "model_ends", ())
    state = (tokenizer.eos_token_id, tokenizer.chat_template, asked, more)
    # asked for every row, so remembered; a template or eos set later is another state
    known = getattr(tokenizer, "known_end", None)
    if known is None or known[0] != state:
        known = tokenizer.known_end = (state, _decide(tokenizer, asked, more))
    return known[1]


def _decide(tokenizer: PreTrainedTokenizerBase, asked: str | None, more: Sequence[int]) -> TurnEnd:
    eos, closing = tokenizer.eos_token_id, closing_token(tokenizer)
    trained = eos if closing is None else closing
    if asked is not None:
        trained = tokenizer.convert_tokens_to_ids(asked)
    ends = (trained, eos, closing, *more)
    return TurnEnd(trained, tuple(dict.fromkeys(i for i in ends if i is not None)))


def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template closes an assistant's turn; None where it has none.

    The first special (or added) token that is rendered after each answer. After the last alone,
    some templates write a generation prompt whether asked or not, which closes nothing.

    Raises:
        UserError: the template is no Jinja.
    """
    if not tokenizer.chat_template:
        return None
    turn = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turn + turn, tokenize=False)
    except TemplateSyntaxError as error:
        raise UserError(
            f"{tokenizer.name_or_path or 'tokenizer'}: its chat template is no valid Jinja "
            f"({error.message}, line {error.lineno})"
        ) from error
    # templates raise what they like; the first real row is then told with what it says
    except Exception:
        return None
    special = _markers(tokenizer)
    after = (part.partition(QUESTION)[0] for part in text.split(ANSWER)[1:])
    ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in after)
    first = {next((i for i in row if i in special), None) for row in ids}
    return first.pop() if len(first) == 1 else None


def _markers(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that may end a turn: special and added tokens, less the blank ones."""
    # Gemma, CodeGen: runs of spaces and newlines are added tokens, and no more than words
    added = tokenizer.get_added_vocab()
    blank = {i for token, i in added.items() if not token.replace("▁", " ").strip()}
    return {*tokenizer.all_special_ids, *added.values()} - blank


def text_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a document of pretraining text: the base model's own eos."""
    return tokenizer.convert_tokens_to_ids(tokenizer.init_kwargs.get(TEXT_END, tokenizer.eos_token))


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that is trained after a completion."""
    return tokenizer.convert_ids_to_tokens(turn_end(tokenizer).trained)


def settle_trained_end(tokenizer: PreTrainedTokenizerBase, eos_token: str | None = None) -> None:
    """Makes the token that is trained the tokenizer's eos, which every other library reads.

    Args:
        eos_token: `--eos_token`: this one is trained, whatever the template writes.

    Raises:
        UserError: that is no token of the vocabulary.
    """
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise UserError(
                f"--eos_token {eos_token}: no token of the vocabulary of {tokenizer.name_or_path}"
            )
        _set_eos(tokenizer, tokenizer.convert_tokens_to_ids(eos_token))
        # kept only where the template would say otherwise when the model is loaded again
        tokenizer.init_kwargs.pop(ASKED, None)
        if turn_end(tokenizer).trained != tokenizer.eos_token_id:
            tokenizer.init_kwargs[ASKED] = eos_token
    _set_eos(tokenizer, turn_end(tokenizer).trained)


def _set_eos(tokenizer: PreTrainedTokenizerBase, token: int) -> None:
    if token != tokenizer.eos_token_id:
        # a text that ends in the old one has ended all the same
        tokenizer.model_ends = (*getattr(tokenizer, "model_ends", ()), tokenizer.eos_token_id)
        # the first: it was so before any step of this repo
        tokenizer.init_kwargs.setdefault(TEXT_END, tokenizer.eos_token)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token)


def agree_on_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer learns the model's ends and the model's generation config all of them.

    So plain transformers stops where this repo does, with the model that is saved, too.
    """
    config = model.generation_config
    theirs = config.eos_token_id
    theirs = theirs if isinstance(theirs, list | tuple) else [theirs]
    special = _markers(tokenizer)
    words = [i for i in theirs if i is not None and i not in special]
    # a config's default number is an ordinary word of another vocabulary: answers would be cut
    if words and is_main_process():
        print(
            f"{model.name_or_path}: eos_token_id {', '.join(map(str, words))} of its generation "
            "config is no special token of its tokenizer, so answers do not end there"
        )
    known = getattr(tokenizer, "model_ends", ())
    new = [i for i in theirs if i in special]
    tokenizer.model_ends = tuple(dict.fromkeys((*known, *new)))
    ids = turn_end(tokenizer).ids
    config.eos_token_id = list(ids) if len(ids) > 1 else ids[0]


def has_ended(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    """Whether sampled ids end by themselves; a cut-off answer does not."""
    # by id: the text has lost its end
    return bool(ids) and ids[-1] in turn_end(tokenizer).ids


def up_to_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The ids up to and with the first that ends an answer; all where none does."""
    return next((ids[: n + 1] for n, token in enumerate(ids) if token in ends), ids)


def save_ends(model: PreTrainedModel, folder: str | Path) -> None:
    """Writes `generation_config.json` beside an adapter: who samples from it stops as we do."""
    # as text, unchecked: `save_pretrained` refuses settings that others have published
    model.generation_config.to_json_file(Path(folder) / "generation_config.json")
