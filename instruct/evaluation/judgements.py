"""What people say of models' answers (paper, 3.6): win rates, overall quality, flags, agreement.

Judgements are rows of `data_prep.label --kind judgements`: one labeler on the answers of two or
more models to one prompt. They count only where these are the very answers that are evaluated.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from instruct.errors import UserError
from instruct.evaluation.judges import is_judge
from instruct.evaluation.statistics import cluster_bootstrap, pigeonhole_bootstrap
from instruct.files import placed_source
from instruct.plain_text import one_line
from instruct.rendering import as_messages
from instruct.rows.row_checks import fault_of

NEEDED = ("prompt_id", "prompt", "models", "completions", "ranks", "labeler")
QUALITIES = range(1, 8)
# why a judgement does not count
OTHER_TEXT, OTHER_PROMPT, OTHER_MODELS = "another_answer", "another_prompt", "other_models"
WHY = {
    OTHER_TEXT: "on another answer",
    OTHER_PROMPT: "on a prompt that is not evaluated",
    OTHER_MODELS: "on fewer than two of --models",
}


class Judgement(NamedTuple):
    """What one labeler says of several models' answers to one prompt.

    Attributes:
        place: file and line.
        asked: the words of each turn of the prompt.
        ranks: {model: rank}, 1 = best, equal = tie.
        quality: {model: 1 to 7}, of those that were given one.
        flags: {model: questions answered with yes}.
        user: who wrote the prompt; known when it is matched with the answers.
        questions: keys of those that were asked; None of a row that does not say.
    """

    place: str
    prompt_id: str
    asked: list[str | None]
    labeler: str
    texts: dict[str, str]
    ranks: dict[str, int]
    quality: dict[str, int]
    flags: dict[str, list[str]]
    user: str = ""
    questions: list[str] | None = None


################
# Rows
################


def read_judgements(source: str | Path, models: Iterable[str]) -> list[Judgement]:
    """The judgements of a file, a folder or the Hub.

    Args:
        models: names of those that are evaluated.

    Raises:
        UserError: a row that is no judgement or no person's, a labeler who judged the same answers
            twice, or none of the models in it.
    """
    with_place = [_judgement(place, row) for place, row in placed_source(source)]
    if not with_place:
        raise UserError(f"--judgements {source}: no rows")
    seen: dict[tuple, str] = {}
    for found in with_place:
        asked = tuple(found.asked)
        key = (found.labeler, found.prompt_id, asked, *sorted(found.texts.items()))
        if key in seen:
            raise UserError(
                f"--judgements {found.place}: {one_line(found.labeler, 60)} has judged these "
                f"answers before ({seen[key]}); keep one of the two"
            )
        seen[key] = found.place
    judged = {name for found in with_place for name in found.ranks}
    models = list(models)
    if len(judged & set(models)) < 2:
        raise UserError(
            f"--judgements {source}: is on {', '.join(sorted(judged))}, fewer than two of --models "
            f"({', '.join(models)}); names have to be those that were judged"
        )
    return with_place


def _judgement(place: str, row: dict) -> Judgement:
    where = f"--judgements {place}"
    for name in NEEDED:
        if row.get(name) is None:
            raise UserError(
                f"{where}: no {name!r}; give what data_prep.label --kind judgements has written"
            )
    if fault := fault_of("prompt", row["prompt"]):
        raise UserError(f"{where}: 'prompt' {fault}")
    models, texts, ranks = (row[name] for name in ("models", "completions", "ranks"))
    if not _all(models, str) or len(set(models)) < max(2, len(models)):
        raise UserError(f"{where}: 'models' must be two or more names")
    quality = row.get("quality") or [None] * len(models)
    flags = row.get("flags") or [[] for _ in models]
    for name, values, right in (
        ("completions", texts, _all(texts, str)),
        ("ranks", ranks, _all(ranks, int)),
        ("quality", quality, isinstance(quality, list) and _all(_given(quality), int)),
        ("flags", flags, isinstance(flags, list) and all(_all(f, str) for f in flags)),
    ):
        if not right or len(values) != len(models):
            raise UserError(f"{where}: {name!r} must hold one entry for each of 'models'")
    if not all(value in QUALITIES for value in _given(quality)):
        raise UserError(f"{where}: 'quality' is from 1 to 7")
    questions = row.get("questions")
    _check_questions(where, questions, flags)
    if not isinstance(row["labeler"], str) or is_judge(row["labeler"]):
        raise UserError(
            f"{where}: {one_line(str(row['labeler']), 60)} is no person; judges that are none are "
            "asked by --judge"
        )
    given = {name: value for name, value in zip(models, quality, strict=True) if value is not None}
    return Judgement(
        place,
        str(row["prompt_id"]),
        _words_of(row["prompt"]),
        row["labeler"],
        dict(zip(models, texts, strict=True)),
        dict(zip(models, ranks, strict=True)),
        given,
        dict(zip(models, flags, strict=True)),
        questions=questions,
    )


def _check_questions(where: str, questions, flags: list[list[str]]) -> None:
    if questions is None:
        return
    if not _all(questions, str):
        raise UserError(f"{where}: 'questions' must be a list of the questions that were asked")
    ticked = [key for keys in flags for key in keys if key not in questions]
    if ticked:
        raise UserError(
            f"{where}: 'flags' holds {one_line(ticked[0], 60)!r}, which 'questions' does not"
        )


def _words_of(prompt: str | list[dict]) -> list[str | None]:
    # other keys of a message are null in one file and not there in another
    return [message.get("content") for message in as_messages(prompt)]


def _all(values, kind: type) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )


def _given(values: list) -> list:
    return [value for value in values if value is not None]


################
# On these answers
################


def check_prompts(source: str | Path, judgements: list[Judgement], prompts: list[dict]) -> None:
    """That a judgement is on one of these prompts: known before a model has answered any.

    Raises:
        UserError: none is.
    """
    here = {(row["prompt_id"], tuple(_words_of(row["prompt"]))) for row in prompts}
    if not any((found.prompt_id, tuple(found.asked)) in here for found in judgements):
        told = f"{len(judgements)} {WHY[OTHER_PROMPT]}"
        raise _none_counts(source, f"{told}; first: {judgements[0].place}")


def _none_counts(source: str | Path, told: str) -> UserError:
    return UserError(
        f"--judgements {source}: no judgement is on these answers ({told}); give the file with the "
        "--input, --seed and models whose answers.jsonl was judged"
    )


def on_answers(
    judgements: list[Judgement], answers: dict[str, list[dict]], users: list[str]
) -> tuple[list[Judgement], dict[str, int], str | None]:
    """Those on the very answers that are evaluated, of the models that are.

    Returns them with their `user`, how many others there are by reason, and the first of these in
    words.
    """
    names = list(answers)
    places: dict[str, list[int]] = {}
    asked = [_words_of(row["prompt"]) for row in answers[names[0]]]
    for i, row in enumerate(answers[names[0]]):
        places.setdefault(row["prompt_id"], []).append(i)
    used, left_out, first = [], dict.fromkeys(WHY, 0), None
    for found in judgements:
        models = [name for name in names if name in found.ranks]
        # an id may be a row's number: of another file it is another prompt
        there = [i for i in places.get(found.prompt_id, []) if asked[i] == found.asked]
        same = [
            i for i in there if all(answers[m][i]["completion"] == found.texts[m] for m in models)
        ]
        if len(models) > 1 and same:
            used.append(found._replace(user=users[same[0]]))
            continue
        why = OTHER_MODELS if len(models) < 2 else OTHER_TEXT if there else OTHER_PROMPT
        left_out[why] += 1
        first = first or f"{found.place}, {WHY[why]}"
    return used, {why: count for why, count in left_out.items() if count}, first


def judged_by_people(
    source: str | Path,
    judgements: list[Judgement],
    answers: dict[str, list[dict]],
    users: list[str],
) -> dict:
    """What people say of these answers, and how many of their judgements are on others.

    Args:
        users: who wrote the prompt of each answer.

    Returns `win_rate` {ours_vs_theirs: as `win_rate` has it}, `quality` {model: {mean, low, high,
    n}}, `flags` {model: {question: {rate, low, high, n}, or None where nobody was asked}}, all
    with intervals clustered by user and by labeler (None for both ends where one labeler judged
    one user's prompts), and `agreement` of labelers (None where no two
    judged the same answers).

    Raises:
        UserError: none is on these answers.
    """
    used, left_out, first = on_answers(judgements, answers, users)
    told = ", ".join(f"{count} {WHY[why]}" for why, count in left_out.items())
    if not used:
        raise _none_counts(source, f"{told}; first: {first}")
    if left_out:
        print(f"{source}: {len(used)} of {len(judgements)} judgements are on these answers; left "
              f"out: {told} (first: {first})")  # fmt: skip
    names = list(answers)
    return {
        "rows": len(judgements),
        "used": len(used),
        "left_out": left_out,
        "labelers": len({found.labeler for found in used}),
        "users": len({found.user for found in used}),
        "win_rate": _win_rates(used, names),
        "quality": _quality(used, names),
        "flags": _flags(used, names),
        "agreement": agreement(used),
    }


def _interval(values: list[tuple[float, Judgement]], key: str) -> dict:
    mean, low, high = pigeonhole_bootstrap(
        [value for value, _ in values],
        [found.user for _, found in values],
        [found.labeler for _, found in values],
    )
    # one cluster drawn again and again is no interval
    if len({found.user for _, found in values}) == len({f.labeler for _, f in values}) == 1:
        low = high = None
    return {key: mean, "low": low, "high": high, "n": len(values)}


def _win_rates(used: list[Judgement], names: list[str]) -> dict[str, dict]:
    rates = {}
    for i, ours in enumerate(names):
        for theirs in names[:i]:
            both = [found for found in used if ours in found.ranks and theirs in found.ranks]
            won = [(_won(found, ours, theirs), found) for found in both]
            if won:
                ties = sum(value == 0.5 for value, _ in won)
                rates[f"{ours}_vs_{theirs}"] = {**_interval(won, "rate"), "ties": ties}
    return rates


def _won(found: Judgement, ours: str, theirs: str) -> float:
    """1, 0, or 0.5 for a tie; one text of both models is a tie, whatever was said of it."""
    if found.texts[ours] == found.texts[theirs]:
        return 0.5
    first, second = found.ranks[ours], found.ranks[theirs]
    return 0.5 if first == second else float(first < second)


def _quality(used: list[Judgement], names: list[str]) -> dict[str, dict]:
    given = {n: [(f.quality[n], f) for f in used if n in f.quality] for n in names}
    return {name: _interval(values, "mean") for name, values in given.items() if values}


def _flags(used: list[Judgement], names: list[str]) -> dict[str, dict]:
    """How often each question was answered with yes, of those who were asked it.

    Rows of earlier exports do not say what was asked: of these, what any of them has ticked.
    """
    silent = [found for found in used if found.questions is None]
    ticked = dict.fromkeys(key for found in silent for key in _ticked(found, names))
    asked = [list(ticked) if found.questions is None else found.questions for found in used]
    keys = list(dict.fromkeys(key for questions in asked for key in questions))
    rates: dict[str, dict] = {}
    for name in names if keys else ():
        judged = [
            (found, questions)
            for found, questions in zip(used, asked, strict=True)
            if name in found.flags
        ]
        if judged:
            rates[name] = {key: _flag(name, key, judged) for key in keys}
    return rates


def _flag(name: str, key: str, judged: list[tuple[Judgement, list[str]]]) -> dict | None:
    said = [(float(key in found.flags[name]), found) for found, asked in judged if key in asked]
    return _interval(said, "rate") if said else None


def _ticked(found: Judgement, names: list[str]) -> Iterator[str]:
    for name in names:
        yield from found.flags.get(name, [])


def agreement(used: list[Judgement]) -> dict | None:
    """How often two labelers order the same two answers alike, clustered by user.

    As `ranking_metrics.labeler_agreement`: pairs that one of them calls equal do not count. None
    where there is no pair that both order.
    """
    by_prompt: dict[str, list[Judgement]] = {}
    for found in used:
        by_prompt.setdefault(found.prompt_id, []).append(found)
    alike, users = [], []
    for group in by_prompt.values():
        for one, other in combinations(group, 2):
            # of two files, say: nobody agrees with themselves
            if one.labeler == other.labeler:
                continue
            both = sorted(one.ranks.keys() & other.ranks.keys())
            for a, b in combinations(both, 2):
                # of answers under one id, the same ones
                if any(one.texts[m] != other.texts[m] for m in (a, b)):
                    continue
                first, second = _won(one, a, b), _won(other, a, b)
                if 0.5 not in (first, second):
                    alike.append(float(first == second))
                    users.append(one.user)
    if not alike:
        return None
    rate, low, high = cluster_bootstrap(alike, users)
    if len(set(users)) == 1:
        low = high = None
    return {"rate": rate, "low": low, "high": high, "n_pairs": len(alike)}
