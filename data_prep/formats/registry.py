"""The shapes that people's files come in: one table of all, asked from its top, first match wins.

A format knows the columns that it turns into ours (`reads`); all others ride along. Its `convert`
gives a row of our columns, or several, or raises `Misfit`:

    prompts          prompt [messages]
    demonstrations   prompt [messages], completion [messages]
    answers          completion [messages], to a prompt_id
    samples          prompt [messages], completions [K texts]
    rankings         prompt [messages], completions [K texts], ranks [K ints]
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data_prep.formats import (
    demonstration_shapes,
    judged_shapes,
    oasst,
    preference_shapes,
    prompt_shapes,
    scored_shapes,
)
from data_prep.formats.misfit import Misfit

# (columns that any row has, the first rows) -> whether a file is of a format
LooksLike = Callable[[set[str], list[dict]], bool]


@dataclass(frozen=True)
class Format:
    """A named shape of rows: how it is told, and how a row of it becomes ours."""

    name: str  # as it is said, and as --format takes it
    kind: str  # which of these
    reads: tuple[str, ...]
    looks_like: LooksLike
    convert: Callable[[dict], dict | list[dict]]
    # our own columns: a row of them that does not fit is a mistake, not another's habit
    ours: bool = False
    # joins the rows of one ranking: (their indices, one row for `convert`) or why they are in none
    gather: Callable[[list[dict]], Iterable[tuple[list[int], dict | Misfit]]] | None = None


def has(*names: str) -> LooksLike:
    """Files that have all of these columns."""
    return lambda columns, first_rows: columns.issuperset(names)


# The most specific first.
FORMATS = (
    # --- prompts
    Format(
        "OpenAssistant trees", "prompts", ("prompt",), oasst.is_trees, prompt_shapes.listed_prompt
    ),
    Format(
        "OpenAssistant messages",
        "prompts",
        ("role", "text"),
        oasst.is_messages,
        prompt_shapes.first_message,
    ),
    Format(
        "HH prompts",
        "prompts",
        ("prompt",),
        prompt_shapes.has_marked_prompt,
        prompt_shapes.listed_prompt,
    ),
    Format(
        "prompts in JSON lists",
        "prompts",
        ("prompt",),
        prompt_shapes.has_listed_prompt,
        prompt_shapes.listed_prompt,
    ),
    Format("prompts", "prompts", ("prompt",), has("prompt"), prompt_shapes.prompt, ours=True),
    Format(
        "conversations",
        "prompts",
        prompt_shapes.READ_FOR_CONVERSATION,
        prompt_shapes.has_conversations,
        prompt_shapes.conversation,
    ),
    Format(
        "questions",
        "prompts",
        prompt_shapes.READ_FOR_QUESTION,
        prompt_shapes.has_question,
        prompt_shapes.question,
    ),
    # --- demonstrations
    Format(
        "OpenAssistant trees",
        "demonstrations",
        oasst.READ_OF_TREES,
        oasst.is_trees,
        oasst.best_of_tree,
    ),
    Format(
        "OpenAssistant messages",
        "demonstrations",
        oasst.READ_OF_MESSAGES,
        oasst.is_messages,
        oasst.best_sibling,
        gather=oasst.best_siblings,
    ),
    Format(
        "KTO",
        "demonstrations",
        demonstration_shapes.READ_OF_THUMBS,
        demonstration_shapes.has_thumbs,
        demonstration_shapes.liked,
    ),
    Format(
        "HH prompts and answers",
        "demonstrations",
        demonstration_shapes.READ_OF_ANSWERED,
        demonstration_shapes.has_marked_answer,
        demonstration_shapes.marked_answer,
    ),
    Format(
        "prompt and completion",
        "demonstrations",
        ("prompt", "completion"),
        has("prompt", "completion"),
        demonstration_shapes.prompt_completion,
        ours=True,
    ),
    Format(
        "Alpaca",
        "demonstrations",
        demonstration_shapes.READ_OF_ANSWERED,
        demonstration_shapes.has_alpaca,
        demonstration_shapes.answered,
    ),
    Format(
        "question and answer",
        "demonstrations",
        demonstration_shapes.READ_OF_ANSWERED,
        demonstration_shapes.has_answer,
        demonstration_shapes.answered,
    ),
    Format(
        "conversations",
        "demonstrations",
        (*prompt_shapes.READ_FOR_CONVERSATION, "prompt"),
        prompt_shapes.has_conversations,
        demonstration_shapes.dialogue,
    ),
    Format(
        "HH dialogues",
        "demonstrations",
        ("text",),
        demonstration_shapes.has_marked_text,
        demonstration_shapes.marked_text,
    ),
    # --- answers
    Format(
        "answers",
        "answers",
        demonstration_shapes.ANSWERS,
        demonstration_shapes.has_only_answer,
        demonstration_shapes.only_answer,
        ours=True,
    ),
    # --- samples
    Format(
        "samples",
        "samples",
        ("prompt", "completions"),
        has("prompt", "completions"),
        preference_shapes.samples,
        ours=True,
    ),
    # --- rankings
    Format(
        "OpenAssistant trees",
        "rankings",
        oasst.READ_OF_TREES,
        oasst.is_trees,
        oasst.tree,
    ),
    Format(
        "OpenAssistant messages",
        "rankings",
        oasst.READ_OF_MESSAGES,
        oasst.is_messages,
        oasst.siblings,
        gather=oasst.ranked_siblings,
    ),
    Format(
        "rankings",
        "rankings",
        ("prompt", "completions", "ranks"),
        has("prompt", "completions", "ranks"),
        preference_shapes.rankings,
        ours=True,
    ),
    Format(
        "HH pairs",
        "rankings",
        preference_shapes.READ_OF_PAIRS,
        preference_shapes.has_hh_pair,
        preference_shapes.pairs,
    ),
    Format(
        "RewardBench 2",
        "rankings",
        preference_shapes.READ_OF_PAIRS,
        preference_shapes.has_answer_lists,
        preference_shapes.answer_lists,
    ),
    Format(
        "UltraFeedback pairs",
        "rankings",
        preference_shapes.READ_OF_PAIRS,
        preference_shapes.has_conversation_pair,
        preference_shapes.pairs,
    ),
    Format(
        "pairs",
        "rankings",
        preference_shapes.READ_OF_PAIRS,
        preference_shapes.has_pair,
        preference_shapes.pairs,
        ours=True,
    ),
    # two answers and who won
    Format(
        "Kaggle arena",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by(*judged_shapes.WON),
        judged_shapes.by_flags,
    ),
    Format(
        "PandaLM",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by(*judged_shapes.ANNOTATORS),
        judged_shapes.by_annotators,
    ),
    Format(
        "HelpSteer preferences",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by(*judged_shapes.STRENGTHS),
        judged_shapes.by_strength,
    ),
    Format(
        "PKU-SafeRLHF",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by(*judged_shapes.BETTER_IDS),
        judged_shapes.by_better_id,
    ),
    Format(
        "arena",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.is_arena,
        judged_shapes.by_winner,
    ),
    Format(
        "AlpacaEval",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.is_alpaca_eval,
        judged_shapes.by_winner,
    ),
    Format(
        "two answers and a winner",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by(*judged_shapes.WINNERS),
        judged_shapes.by_winner,
    ),
    Format(
        "SHP",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by("labels", "score_A"),
        judged_shapes.by_label,
    ),
    Format(
        "WebGPT comparisons",
        "rankings",
        judged_shapes.READ_OF_JUDGED,
        judged_shapes.judged_by("score_0"),
        judged_shapes.by_two_scores,
    ),
    # K answers and their ranks or scores
    Format(
        "UltraFeedback",
        "rankings",
        scored_shapes.READ_OF_SCORED,
        scored_shapes.has_key("completions", "overall_score"),
        scored_shapes.numbered_answers,
    ),
    Format(
        "Nectar",
        "rankings",
        scored_shapes.READ_OF_SCORED,
        scored_shapes.has_key("answers", "rank"),
        scored_shapes.numbered_answers,
    ),
    Format(
        "Stack Exchange answers",
        "rankings",
        scored_shapes.READ_OF_SCORED,
        scored_shapes.has_key("answers", "pm_score"),
        scored_shapes.numbered_answers,
    ),
    Format(
        "answers with numbers",
        "rankings",
        scored_shapes.READ_OF_SCORED,
        scored_shapes.has_numbered_answers,
        scored_shapes.numbered_answers,
    ),
    Format(
        "answers and numbers",
        "rankings",
        scored_shapes.READ_OF_SCORED,
        scored_shapes.has_number_beside,
        scored_shapes.number_beside,
    ),
    Format(
        "an answer a row",
        "rankings",
        scored_shapes.READ_OF_ONE_ANSWER,
        scored_shapes.has_one_answer,
        scored_shapes.number_beside,
        gather=scored_shapes.by_prompt,
    ),
)
