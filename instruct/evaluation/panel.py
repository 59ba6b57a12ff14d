"""Judges side by side: what each says of every answer, kept with it. The first is the gold one."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from instruct.checks.score_functions import ScoreFunction, scores_of
from instruct.errors import UserError
from instruct.evaluation.answers import keep
from instruct.evaluation.judges import Fit, RewardJudge, judge_model, judge_of
from instruct.evaluation.llm_judge import LLMJudge, check_prompt_flag, is_llm, llm_judge_of
from instruct.evaluation.pairwise import add_wins
from instruct.evaluation.scripted import READER, SCRIPTED, spoken_name
from instruct.hashes import hash_of
from instruct.plain_text import check_name
from instruct.run.fingerprints import content_of, model_identity, source_hash
from instruct.tokens import FOR_TEMPLATE

# no step's aim where nobody says so
INDEPENDENT = "logprob"
FIT, REWARD = "fit", "reward"  # columns of their own, from no judge of the panel
# what else the report measures, in columns of their own
MEASURED = (
    "the reward model", "reward model", "length alone (shorter wins)", "tokens", "ended",
    "distinct-2", "n",
)  # fmt: skip
NOTE = "\0"  # before the names of those columns among the judges', of which none begins so


class Judge(NamedTuple):
    """Who scores answers, or compares them.

    Attributes:
        name: what the report calls it.
        spec: as it was given.
        model: path or id of the model that it asks, if any.
        key: what it is, by content: another one scores anew.
    """

    name: str
    spec: str
    score: ScoreFunction | LLMJudge
    model: str | None
    key: str

    @property
    def compares(self) -> bool:
        """Whether it is asked about pairs of answers, and its scores come from them."""
        return isinstance(self.score, LLMJudge)

    def is_independent(self, aims: Collection[str] = ()) -> bool:
        """Whether no policy was led to please it.

        Args:
            aims: models that are judged themselves or were a step's aim, by content.
        """
        is_free = self.spec.partition(":")[0] == INDEPENDENT
        return is_free and content_of(model_identity(self.model)) not in aims


def default_name(spec: str) -> str:
    """What a judge is called where nobody says: by its kind and the folder of its model."""
    kind, _, rest = spec.partition(":")
    if is_llm(spec):
        return f"the LLM judge {llm_judge_of(spec, '--judge').name}"
    if judge_model(spec) is None:
        # the labeler by its older name
        return spoken_name(SCRIPTED) if rest in ("", "scripted_reward") else spec
    # the folder alone: a path is of one machine
    model = Path(rest).name or rest
    return {
        "scripted": spoken_name(READER),
        "reward": f"the reward model {model}",
        "logprob": f"the log-probability by {model}",
    }[kind]


def panel_of(specs: list[str], names: list[str] | None, prompt: Path | None = None) -> list[Judge]:
    """The judges of `--judge`, called by `--judge_name`, or by what they are.

    Args:
        prompt: what an LLM is asked, in place of ours.

    Raises:
        UserError: no such judge, not one name each, or one name twice.
    """
    if names is not None and len(names) != len(specs):
        raise UserError(
            f"--judge_name gives {len(names)} names for {len(specs)} judges (--judge); "
            "give one each, or none"
        )
    for name in names or []:
        check_name(name, "--judge_name")
        if name.casefold() in MEASURED:
            raise UserError(f"--judge_name {name}: a column of the report has that name already")
    check_prompt_flag(prompt, specs)
    names = names or [default_name(spec) for spec in specs]
    for number, name in enumerate(names):
        for other, same in enumerate(names[:number]):
            if name.casefold() == same.casefold():
                raise UserError(
                    f"--judge {specs[other]} and {specs[number]} are both called {name!r}; "
                    "give each a name of its own by --judge_name"
                )
    return [
        _comparing(name, spec, prompt)
        if is_llm(spec)
        else _judge(name, spec, judge_of(spec, "--judge"), judge_model(spec))
        for name, spec in zip(names, specs, strict=True)
    ]


def fit_judge(path: str) -> Judge:
    """Who says how well answers fit their prompts: the model at `path`.

    Raises:
        UserError: no model there.
    """
    fit = Fit(path)
    try:
        fit.check()
    except UserError as error:
        raise UserError(f"--fit_model {error}") from error
    return _judge(FIT, f"{FIT}:{path}", fit, path)


def reward_judge(path: str, load: bool = True) -> Judge:
    """The reward model at `path`, in a column of its own beside the judges.

    Args:
        load: whether to look if it is one, else at its first call.

    Raises:
        UserError: no trained reward model there, in the words of every command that loads one.
    """
    reward = RewardJudge(path)
    if load:
        reward.check()
    return _judge(REWARD, f"{REWARD}:{path}", reward, path)


def _judge(name: str, spec: str, score: ScoreFunction, model: str | None) -> Judge:
    key = {
        "kind": getattr(score, "__qualname__", type(score).__qualname__),
        "source": source_hash(score),
        "model": content_of(model_identity(model)),
    }
    return Judge(name, spec, score, model, hash_of(key))


def _comparing(name: str, spec: str, prompt: Path | None) -> Judge:
    judge = llm_judge_of(spec, "--judge", prompt)
    return Judge(name, spec, judge, None, hash_of({"kind": "LLMJudge", **judge.identity()}))


################
# Their scores
################


def add_scores(
    answers: dict[str, list[dict]],
    judges: list[Judge],
    fit: Judge | None,
    reward: Judge | None,
    output_dir: Path,
) -> None:
    """Adds `scores` {judge: number}, `gold`, the first judge's, and `fit`, `reward` if asked for.

    Raises:
        UserError: a judge gives no finite numbers.
    """
    asked = [(j, j.name, f"--judge {j.spec}") for j in judges if not j.compares]
    asked += [(fit, NOTE + FIT, "--fit_model")] if fit else []
    asked += [(reward, NOTE + REWARD, "--reward")] if reward else []
    for row in (row for rows in answers.values() for row in rows):
        row.pop("wins", None)
    # judges of one model share it: loaded once, and gone before the next
    for model in dict.fromkeys(judge.model for judge, _, _ in asked):
        ours = [entry for entry in asked if entry[0].model == model]
        for judge, note, what in ours:
            for names in _asked_together(answers, judge, note):
                rows = [row for name in names for row in answers[name]]
                _score(rows, judge, note, f"{what}, asked of the answers of {', '.join(names)},")
                for name in names:
                    keep(output_dir, answers[name])
        for judge, _, _ in ours:
            if hasattr(judge.score, "off"):
                judge.score.off()
    for judge in judges:
        if judge.compares:
            add_wins(answers, judge.score, judge.name, judge.key, output_dir)
    names = [judge.name for judge in judges]
    for row in (row for rows in answers.values() for row in rows):
        # not those that only an earlier run asked
        for column, judge in ((FIT, fit), (REWARD, reward)):
            row.pop(column, None)
            if judge:
                row[column] = row["scores"][NOTE + column]
        row["scores"] = {name: row["scores"][name] for name in names}
        row["gold"] = row["scores"][names[0]]


def _asked_together(answers: dict[str, list[dict]], judge: Judge, note: str) -> list[list[str]]:
    """The models whose answers are yet to be scored, in the groups that a judge is asked about."""
    new = [name for name in answers if not _is_scored(answers[name], note, judge.key)]
    if not getattr(judge.score, "shares_prompts", False):
        return [[name] for name in new]
    # all or none: a score's last bits depend on its batch, also where a killed run had kept some
    return [list(answers)] if new else []


def _is_scored(rows: list[dict], note: str, key: str) -> bool:
    """Whether these answers were scored by this judge, and every score is a number."""
    return all(
        row.get("judged", {}).get(note) == key
        and isinstance(score := row.get("scores", {}).get(note), int | float)
        and math.isfinite(score)
        for row in rows
    )


def _score(rows: list[dict], judge: Judge, note: str, what: str) -> None:
    # what a template takes; a user's function takes what it names
    names = [key for key in FOR_TEMPLATE if judge.model and key in rows[0]]
    # called as a reward function: one signature for both
    scores = scores_of(
        judge.score,
        what,
        prompts=[row["prompt"] for row in rows],
        completions=[row["completion"] for row in rows],
        **{name: [row[name] for row in rows] for name in names},
    )
    for row, score in zip(rows, scores, strict=True):
        row.setdefault("scores", {})[note] = score
        row.setdefault("judged", {})[note] = judge.key
