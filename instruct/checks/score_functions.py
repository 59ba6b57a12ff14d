"""Functions that score texts: reward functions and judges, called and checked in one place.

(prompts, completions, **columns) -> one number per completion, as in TRL's GRPO
"""

from collections.abc import Callable, Iterable

from instruct.errors import UserError

ScoreFunction = Callable[..., list[float]]

SHOWN = 100  # characters of a text in a message
LARGEST = 3.4028234663852886e38  # a number of float32, in which PPO computes


def name_of(function: ScoreFunction) -> str:
    # an object with __call__ has no __name__
    return getattr(function, "__name__", type(function).__name__)


def as_functions(given: ScoreFunction | Iterable[ScoreFunction] | None) -> list[ScoreFunction]:
    """One function, several or none, as a list. Raises `UserError` where one is no function."""
    functions = [given] if callable(given) else given if given is not None else []
    if isinstance(functions, str | dict) or not isinstance(functions, Iterable):
        functions = [given]
    functions = list(functions)
    for function in functions:
        if not callable(function):
            raise UserError(
                f"{function!r} is no function (prompts, completions, **columns) -> scores"
            )
    return functions


def check_lists(prompts, completions) -> None:
    """Raises `UserError` unless these are two lists of one length."""
    # a text is a list of its characters, too
    if isinstance(prompts, str) or isinstance(completions, str):
        raise UserError("score takes a list of prompts and a list of their completions")
    if len(prompts) != len(completions):
        raise UserError(
            f"{len(prompts)} prompts and {len(completions)} completions to score: give one "
            "completion for each prompt"
        )


def scores_of(
    function: ScoreFunction, what: str, /, prompts: list, completions: list[str], **columns
) -> list[float]:
    """What a function says of each completion.

    Args:
        what: the function in a message, as "judge 'brevity'".
        prompts: texts or messages.
        columns: more values of each row, as lists.

    Raises:
        UserError: it raised, or did not return one finite number per completion.
    """
    try:
        # lists of their own: a function that changes them changes nobody else's
        scores = function(prompts=list(prompts), completions=list(completions), **columns)
    except UserError:
        raise
    # of its own: one that calls `sys.exit` would end the command as if all was well
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # SIGTERM
        raise UserError(f"{what} raised {type(error).__name__}: {error}") from error
    return checked_scores(scores, what, completions)


def checked_scores(scores, what: str, completions: list) -> list[float]:
    """`scores` as one float per completion.

    Raises:
        UserError: names `what` gave them, and the row and text whose score is no finite number (of
            float32).
    """
    # a text and a dict can be walked through, but hold no scores
    if isinstance(scores, str | bytes | dict):
        raise UserError(_no_numbers(what, scores))
    try:
        scores = list(scores)
    except TypeError as error:
        raise UserError(_no_numbers(what, scores)) from error
    if len(scores) != len(completions):
        raise UserError(f"{what} returned {len(scores)} scores for {len(completions)} completions")
    numbers = []
    for row, (score, text) in enumerate(zip(scores, completions, strict=True), 1):
        where = f"the completion {text!r:.{SHOWN}} (row {row} of {len(scores)})"
        try:
            if isinstance(score, str | bytes):
                raise TypeError("text")
            # float() takes numpy's and torch's numbers, too
            number = float(score)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise UserError(f"{_no_numbers(what, score)} for {where}") from error
        # written so that NaN is bad, too
        if not -LARGEST <= number <= LARGEST:
            raise UserError(f"{what} returned {number} for {where}; scores must be finite")
        numbers.append(number)
    return numbers


def _no_numbers(what: str, scores) -> str:
    return f"{what} must return one number per completion, not {scores!r:.{SHOWN}}"
