"""Talk to it: what you type, answered by each model of a run, side by side.

    python recipes/chat.py                                         (base, SFT and PPO of the demo)
    python recipes/chat.py --models sft=outputs/my/sft/merged ppo=outputs/my/ppo
    python recipes/chat.py --prompt "What do you like about rain?" (one question, then stop)

Every line is a question of its own, as in training: the models do not see what was said before.
Ctrl-D ends it.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest

import torch

from instruct.arguments import parse_models
from instruct.bases import add_base_model
from instruct.checks.flag_ranges import DTYPES
from instruct.checks.model_limits import check_prompts
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.generation import generate_ids
from instruct.models import load_policy
from instruct.plain_text import plain
from instruct.tokens import decode_completion, encode_prompt, named

DEMO = ["base=outputs/demo/embedded/model", "sft=outputs/demo/sft/merged", "ppo=outputs/demo/ppo"]


NARROWEST = 20  # characters of a column; below, texts stand one below the other


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; an empty line stays one."""
    wrapped = []
    # textwrap joins lines; a model's paragraphs are to stay
    for line in text.splitlines() or [""]:
        wrapped += textwrap.wrap(line, width) or [""]
    return wrapped


def side_by_side(answers: dict[str, str], width: int) -> str:
    """Named texts as columns of a table that is `width` characters wide."""
    # 3 for each " | "
    column = (width - 3 * (len(answers) - 1)) // len(answers)
    if column < NARROWEST:
        return "\n".join(f"[{name}] {text}" for name, text in answers.items())
    columns = [[name, "-" * column, *wrap(text, column)] for name, text in answers.items()]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(" | ".join(cell.ljust(column) for cell in row).rstrip() for row in rows)


def questions(prompt: str | None) -> Iterator[str]:
    """`--prompt`, or the lines typed (or piped) in until there are no more."""
    if prompt is not None:
        yield prompt
        return
    if sys.stdin.isatty():
        print("Type a question; Ctrl-D ends.")
    while True:
        try:
            line = input("\n> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise UserError(f"a line that is not UTF-8 text ({error.reason})") from error
        if line.strip():
            yield line


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=DEMO, metavar="NAME=PATH", help="models or adapters"
    )
    parser.add_argument("--prompt", help="ask this once instead of reading lines")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="longest answer")
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="0 = always the likeliest token"
    )
    dtype = "of the models' weights"
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help=dtype)
    parser.add_argument("--seed", type=int, default=0, help="the same, the same answers")
    add_base_model(parser)
    args = parser.parse_args(argv)
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("--prompt is empty")
    # all loaded first: a wrong path is told before the first question
    models = parse_models(args.models)
    loaded = {name: load_policy(path, args.dtype) for name, path in models.items()}
    for question in questions(args.prompt):
        answers = {}
        for name, (model, tokenizer) in loaded.items():
            torch.manual_seed(args.seed)  # the same question, the same answer
            with named("this question"):
                ids = [encode_prompt(tokenizer, question)]
            check_prompts(model.config, [(f"{name}, this question", ids[0])], args.max_new_tokens)
            drawn = generate_ids(model, tokenizer, ids, args.max_new_tokens, args.temperature)
            # a model may write terminal control codes; they are shown, not carried out
            answers[name] = plain(decode_completion(tokenizer, drawn[0], ids[0]).strip())
        print(side_by_side(answers, shutil.get_terminal_size().columns))


if __name__ == "__main__":
    main()
