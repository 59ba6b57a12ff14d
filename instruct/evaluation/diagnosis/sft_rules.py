"""Step 1: did the model learn to answer, and do the later steps start from it?"""

from pathlib import Path

from instruct.errors import UserError
from instruct.evaluation.diagnosis.bounds import BY_FLAG
from instruct.evaluation.diagnosis.run import Finding, NoData, Run
from instruct.run.fingerprints import is_same
from instruct.run.run_record import read_record

# Share of the loss before training. One epoch of the demo takes off a fifth (4.04 to 3.23); a loss
# that stays within a hundredth has not been learned from.
MIN_FALL = 0.01
# Share of answers that end by themselves: docs/troubleshooting.md's --min_eos_rate. Healthy demos
# end 70 % and more, random weights none.
MIN_EOS_RATE = 0.2
MIN_LENGTH = 1.5  # tokens, the end included: the watchdog's --min_length


def sft_did_not_learn(run: Run) -> Finding | None:
    """The loss on held-out demonstrations is no lower than before training, in no evaluation."""
    losses = [(e.get("step"), e["eval_loss"]) for e in run.log("sft") if "eval_loss" in e]
    # without it, overfitting over many epochs would look the same
    if len(losses) < 2 or losses[0][0] != 0:
        raise NoData("SFT was not evaluated before and after it (--eval_strategy epoch)")
    # the best, not the last: the paper trains on while this loss rises
    before, best = losses[0][1], min(loss for _, loss in losses[1:])
    if best < before * (1 - MIN_FALL):
        return None
    return Finding(
        "sft",
        f"SFT did not learn: the loss on held-out demonstrations was {before:.3f} before it and at "
        f"best {best:.3f} after",
        {"eval_loss_before": before, "eval_loss_best": best, "min_fall": MIN_FALL},
        "raise --learning_rate (LoRA takes 1e-4 to 5e-4 on small models) or --num_train_epochs, "
        "and look whether the completions are whole within --max_length",
    )


def sft_skipped(run: Run) -> Finding | None:
    """What the reward model or PPO starts from was not made by SFT."""
    bases, missing = {}, []
    for step in ("ppo", "reward"):
        try:
            base = run.record(step).get("base")
            bases[step] = _made_by_sft(run, step, base)
        except NoData as error:
            missing.append(str(error))
    not_sft = [step for step, made in bases.items() if not made]
    if not bases:
        raise NoData("; ".join(dict.fromkeys(missing)))
    if not not_sft:
        return None
    names = {step: run.record(step)["base"]["name"] for step in not_sft}
    spoken = {"ppo": "PPO", "reward": "the reward model"}
    starts = " and ".join(f"{spoken[step]} starts from {name}" for step, name in names.items())
    return Finding(
        "sft",
        f"SFT was skipped: {starts}, which is no output of recipes/sft.py",
        {f"{step}_base": name for step, name in names.items()},
        "give the merged/ that recipes/sft.py wrote as --model_name_or_path of recipes/reward.py "
        "and recipes/ppo.py",
    )


def _made_by_sft(run: Run, step: str, base: dict | None) -> bool:
    """Whether a step's base is an output of SFT.

    Raises:
        NoData: nobody can say.
    """
    if not base:
        raise NoData(f"{step}/run.json names no base")
    # 1. What stands where it was: merged/ in an output of SFT, or that output itself
    typed = Path(base["name"])
    places = [run.place(step) / base["path"]] if "path" in base else []
    if typed.is_dir():
        places.append(typed)
    makers = [maker for place in places for maker in _records_of(place)]
    if makers:
        return any(maker.get("step") == "sft" for maker in makers)
    # 2. The very model that SFT started from, or one that is not where it was
    try:
        if is_same(base, run.record("sft").get("base")):
            return False
    except NoData:
        pass
    raise NoData(f"nothing is recorded of {base['name']}, which {step} starts from")


def _records_of(model: Path) -> list[dict]:
    try:
        found = (read_record(folder) for folder in (model, model.parent))
        return [record for record in found if record is not None]
    # somebody else's run.json
    except UserError:
        return []


def answers_never_end(run: Run) -> Finding | None:
    """Hardly an answer ends by itself; of SFT, where its own did not either."""
    return _answers(run, "min_eos_rate", "ended", MIN_EOS_RATE, "answers end by themselves: {:.0%}")


def answers_end_at_once(run: Run) -> Finding | None:
    """Answers are nothing but their end."""
    return _answers(run, "min_length", "tokens", MIN_LENGTH, "an answer has {:.1f} tokens")


# What the watchdog says of PPO, where SFT is to be mended.
_SFT_REMEDIES = {
    "min_eos_rate": "train SFT on whole answers (--max_length), longer if need be, and give more "
    "tokens to answer in (--response_length, --max_new_tokens)",
    "min_length": "look at the demonstrations: their completions are to be answers, not blanks",
}


def _answers(run: Run, flag: str, column: str, least: float, words: str) -> Finding | None:
    bound = BY_FLAG[flag]
    values = run.by_step(bound.metric, column)
    low = [step for step, value in values.items() if bound.crossed_by(value, least)]
    # what PPO has mended is no longer broken
    if not low or low[-1] != list(values)[-1]:
        return None
    step = low[0]
    return Finding(
        step,
        f"{bound.cause}: {words.format(values[step])} {'after SFT' if step == 'sft' else 'in PPO'}",
        {**{f"{column}_{name}": value for name, value in values.items()}, flag: least},
        bound.remedy if step == "ppo" else _SFT_REMEDIES[flag],
    )
