"""Step 3: did the policy move, not too far, and to what people like?"""

import contextlib
import math
import statistics

from instruct.evaluation.comparison import rate_against
from instruct.evaluation.diagnosis.bounds import BY_FLAG, FIRST
from instruct.evaluation.diagnosis.run import LAST, Finding, NoData, Run, mean

# Nats per response. The demo is beyond it after three to five of its 20 rollouts, and ends at 3
# to 6.
MIN_MOVED = 0.05
MAX_KL = 15.0  # nats per response: the watchdog's --max_kl, for answers of some 24 tokens
# Nats per token, for longer ones: --max_kl 50 at 256 tokens (recipes/configs/node-8gpu/ppo.yaml)
MAX_KL_PER_TOKEN = 0.2
MIN_ENTROPY = 0.02  # nats per token: the watchdog's --min_entropy
MIN_DISTINCT2_RATIO = 0.6  # of the first rollouts: the watchdog's --min_distinct2_ratio
# Standard errors between two thirds of a run: a mean over few rollouts moves by two of them.
SIGMAS = 3.0
LEAST_ROLLOUTS = 6  # two in each third of a run; with fewer a slow policy has not moved yet


def policy_never_moved(run: Run) -> Finding | None:
    """KL from the reference stays at 0, while training and in the report."""
    kl = run.curve("objective/kl")
    if len(kl) < LEAST_ROLLOUTS:
        raise NoData(f"{len(kl)} rollouts, {LEAST_ROLLOUTS} are needed")
    last = mean(kl[-LAST:])
    with contextlib.suppress(NoData):
        # of more answers than a rollout has
        last = max(last, run.check("kl").value, key=abs)
    if abs(last) >= MIN_MOVED:
        return None
    evidence = {"kl": last, "min_moved": MIN_MOVED, "rollouts": len(kl)}
    flags = _flags(run)
    evidence |= {name: flags[name] for name in ("learning_rate", "kl_coef") if name in flags}
    return Finding(
        "ppo",
        f"the policy never moved: its KL from the reference is {last:.3f} nats per response after "
        f"{len(kl)} rollouts",
        evidence,
        "raise --learning_rate (LoRA takes 1e-4 to 5e-4 on small models) or --total_episodes, "
        "lower --kl_coef, and see that the rewards are not all equal",
    )


def _flags(run: Run) -> dict:
    try:
        return run.record("ppo").get("flags", {})
    except NoData:
        return {}


def kl_ran_away(run: Run) -> Finding | None:
    """KL from the reference is beyond what healthy runs reach, while training or in the report."""
    kl, limit, missing = None, None, []
    try:
        check = run.check("kl")
        if not check.holds:
            kl, limit = check.value, check.bar
    except NoData as error:
        missing.append(error)
    try:
        last = run.last("objective/kl")
        bound = max(MAX_KL, MAX_KL_PER_TOKEN * run.last("objective/length"))
        if BY_FLAG["max_kl"].crossed_by(last, bound):
            kl, limit = last, bound
    except NoData as error:
        missing.append(error)
    if len(missing) == 2:
        raise missing[1]
    if kl is None:
        return None
    return Finding(
        "ppo",
        f"{BY_FLAG['max_kl'].cause}: KL is {kl:.1f} nats per response, above {limit:g}",
        {"kl": kl, "max_kl": limit},
        BY_FLAG["max_kl"].remedy,
    )


def entropy_gone(run: Run) -> Finding | None:
    """The policy is sure of every token."""
    entropy, bound = run.last("policy/entropy_avg"), BY_FLAG["min_entropy"]
    if not bound.crossed_by(entropy, MIN_ENTROPY):
        return None
    return Finding(
        "ppo",
        f"{bound.cause}: its entropy is {entropy:.3f} nats per token, below {MIN_ENTROPY:g}",
        {"entropy": entropy, "min_entropy": MIN_ENTROPY},
        bound.remedy,
    )


def one_phrase(run: Run) -> Finding | None:
    """Answers have become one phrase: distinct-2 in the report, else in PPO's own rollouts."""
    bound = BY_FLAG["min_distinct2_ratio"]
    try:
        check = run.check("distinct2_ratio")
        ratio, least, of = check.value, check.bar, check.unit
    except NoData:
        curve = run.curve(bound.metric)
        if len(curve) < FIRST + LAST:
            raise NoData("too few rollouts to compare the last ones with the first") from None
        # of a reference that says no two words there is no share
        first = mean(curve[:FIRST])
        if first <= 0:
            raise NoData("the first rollouts say no two words") from None
        ratio, least = mean(curve[-LAST:]) / first, MIN_DISTINCT2_RATIO
        of = " of the first rollouts'"
    if ratio >= least:
        return None
    return Finding(
        "ppo",
        f"{bound.cause}: distinct-2 is {ratio:.2f}{of}, below {least:g}",
        {"distinct2_ratio": ratio, "min_distinct2_ratio": least},
        bound.remedy,
    )


def answers_do_not_fit(run: Run) -> Finding | None:
    """Answers could be said to any prompt (`collapse.MIN_FIT`)."""
    check = run.check("fit_ratio")
    if check.holds:
        return None
    return Finding(
        "ppo",
        f"the policy's answers no longer fit their prompts: {check.reason()}",
        {"fit_ratio": check.value, "min_fit": check.bar},
        "raise --kl_coef, train fewer episodes, or have labelers who read the prompt",
    )


def over_optimised(run: Run) -> Finding | None:
    """The learned reward rose while the gold score fell, in training or against the reference."""
    found, missing = None, []
    for look in (_by_win_rates, _by_curves):
        try:
            found = found or look(run)
        except NoData as error:
            missing.append(str(error))
    if found is None and len(missing) == 2:
        raise NoData("; ".join(missing))
    if found is None:
        return None
    sentence, evidence = found
    return Finding(
        "ppo",
        f"the reward went up while the gold score fell (over-optimisation): {sentence}",
        evidence,
        "raise --kl_coef or hold a KL with --kl_target, train fewer --total_episodes, then rank "
        "outputs of this policy and train the reward model on them as well",
    )


def _by_win_rates(run: Run) -> tuple[str, dict] | None:
    policy, reference = run.policy
    by_reward = rate_against(run.report.get("win_rate_by_reward_model") or {}, policy, reference)
    if by_reward is None:
        raise NoData("the report asked no reward model")
    judges = {run.report["judge"]: run.report["win_rate"]}
    if people := run.report.get("judgements"):
        judges["people"] = people["win_rate"]
    for name, rates in judges.items():
        by_judge = rate_against(rates, policy, reference)
        # the model's own win is to be one: a half by chance says nothing
        if by_judge and by_judge["rate"] < 0.5 < by_reward["low"]:
            return (
                f"{policy} wins {by_reward['rate']:.0%} against {reference} by the reward model "
                f"and {by_judge['rate']:.0%} by {name}",
                {"by_reward_model": by_reward["rate"], "by_judge": by_judge["rate"]},
            )
    return None


def _by_curves(run: Run) -> tuple[str, dict] | None:
    """By the last third of the rollouts against the third where the gold score was best."""
    steps = (run.report.get("ppo") or {}).get("steps") or []
    points = [(s["gold"], s["reward"]) for s in steps if _are_numbers(s, "gold", "reward")]
    if len(points) < LEAST_ROLLOUTS:
        raise NoData(f"a gold score of {len(points)} rollouts, {LEAST_ROLLOUTS} are needed")
    size = len(points) // 3
    first, middle, last = points[:size], points[size:-size], points[-size:]
    best = max(first, middle, key=lambda part: mean([gold for gold, _ in part]))
    (gold_was, reward_was), (gold_is, reward_is) = (
        zip(*part, strict=True) for part in (best, last)
    )
    fell = _sigmas(gold_is, gold_was) < -SIGMAS and _sigmas(reward_is, reward_was) > SIGMAS
    if not fell:
        return None
    evidence = {
        "gold_best": mean(gold_was),
        "gold_last": mean(gold_is),
        "reward_then": mean(reward_was),
        "reward_last": mean(reward_is),
    }
    return (
        "gold {gold_best:.2f} → {gold_last:.2f}, reward {reward_then:.2f} → "
        "{reward_last:.2f}".format(**evidence),
        evidence,
    )


def _are_numbers(step: dict, *keys: str) -> bool:
    return all(step.get(key) is not None and math.isfinite(step[key]) for key in keys)


def _sigmas(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """Difference of two means in its standard errors (Welch 1947)."""
    spread = sum(statistics.variance(part) / len(part) for part in (ours, theirs))
    return (mean(ours) - mean(theirs)) / max(math.sqrt(spread), 1e-9)
