"""A panel for each step of a run: what went in, what came out, the curve, what to look at."""

from instruct.evaluation.html import figures
from instruct.evaluation.html.parts import Panel, Table
from instruct.evaluation.run_files import GOLD_KEYS, PPO_TITLES
from instruct.evaluation.tables import counted, interval, of_all, prompts_asked

# why a row of the log or of the answers was left out, in words
REASONS = {
    "duplicate_prefix": "a long beginning shared with a prompt that stayed",
    "near_duplicate": "nearly the same words as a prompt that stayed",
    "pii": "personal information",
    "over_user_cap": "more prompts of one user than the cap",
    "eval_overlap": "a copy of a prompt of an evaluation set",
    "language": "in none of the languages that were asked for",
    "malformed": "could not be read",
    "prompt_not_in_train_or_validation": "its prompt is of a test user, or was removed",
    "below_min_score": "the judge's score was too low",
    "length": "too short or too long an answer",
    "unfinished": "an answer without an end",
}


def _removed(counts: dict) -> list[Table]:
    rows = [
        [reason, str(n), REASONS.get(reason, "–")] for reason, n in counts["removed"].items() if n
    ]
    return [Table("Removed, and why", [["reason", "rows", "what it means"], *rows])] if rows else []


def prompts(report: dict) -> Panel | None:
    counts = report.get("data")
    if not counts:
        return None
    look = "Every user is in one split; removed.parquet beside the prompts holds each row removed."
    points = [("Rows", counted(counts)), ("Look at", look)]
    return Panel("Prompts", points, [], _removed(counts))


def demonstrations(report: dict) -> Panel | None:
    counts = report.get("demonstrations")
    if not counts:
        return None
    return Panel("Demonstrations", [("Rows", counted(counts))], [], _removed(counts))


def sft(report: dict) -> Panel | None:
    sft = report.get("sft")
    if not sft:
        return None
    steps = sft.get("steps", [])
    lines = {
        title: [(one["step"], one[key]) for one in steps if one.get(key) is not None]
        for key, title in (("loss", "training"), ("eval_loss", "held out"))
    }
    lines = {title: points for title, points in lines.items() if points}
    change = f"{sft['eval_loss_before']:.3f} → {sft['eval_loss_after']:.3f} nats per token"
    look = "Held-out loss falls and stays down; where it rises again, fewer epochs are better."
    points = [("Came out", f"Held-out loss {change}."), ("Look at", look)]
    drawn = [figures.curve("loss (nats per token)", lines)] if lines else []
    return Panel("Step 1: supervised fine-tuning", points, drawn)


def reward(report: dict) -> Panel | None:
    reward = report.get("reward")
    if not reward:
        return None
    points = []
    if ranked_by := report.get("ranked_by"):
        points.append(("Went in", f"Rankings by {ranked_by}."))
    if "accuracy" in reward:
        points.append(("Came out", _right(reward)))
    drawn, tables = [], []
    if steps := report.get("reward_steps"):
        lines = [(one["step"], one["loss"]) for one in steps if one.get("loss") is not None]
        drawn = [figures.curve("loss (nats per pair)", {"training": lines})] if lines else []
    if calibration := reward.get("calibration"):
        drawn.append(figures.reliability(calibration["bins"]))
        points.append((
            "As sure as it is right",
            f"Expected calibration error {calibration['ece']:.3f} (by chance "
            f"{calibration['ece_by_chance']:.3f} for so many pairs), slope "
            f"{calibration['slope']:.2f}: below 1 it is too sure of itself.",
        ))  # fmt: skip
    if length := reward.get("length_correlation"):
        points.append(("Length", _length(length)))
    distances = reward.get("by_rank_distance") or {}
    if distances:
        rows = [[d, f"{v['accuracy']:.3f}", str(v["n_pairs"])] for d, v in distances.items()]
        header = ["ranks apart", "accuracy", "pairs"]
        tables.append(Table("Near ranks are the hard pairs", [header, *rows]))
    if files := reward.get("files"):
        rows = [[name, _accuracy(v), str(v["n_pairs"])] for name, v in files.items()]
        tables.append(Table("Preferences", [["file", "accuracy", "pairs"], *rows]))
    look = "People agree with each other in about 73 % of pairs (paper, 3.4); 50 % is a coin."
    points.append(("Look at", look))
    return Panel("Step 2: the reward model", points, drawn, tables)


def _accuracy(found: dict) -> str:
    shares = (100 * found[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*shares)


def _right(reward: dict) -> str:
    """How many held-out pairs it orders as the labelers did, and how many length alone would."""
    of = f" of {reward['rankings']}" if "rankings" in reward else ""
    if "n_rankings" in reward:
        of += f" of {of_all(reward['n_rankings'], reward.get('n_rows'), 'rankings')}"
    said = f"Right in {_accuracy(reward)} of {reward['n_pairs']} held-out pairs{of}."
    if longer := reward.get("length_accuracy"):
        said += f" Choosing the longer answer: {_accuracy(longer)}."
    return said


def _length(found: dict) -> str:
    """How scores go with length, whichever correlations were measured."""
    kinds = [(kind, found[kind]) for kind in ("spearman", "pearson") if found.get(kind)]
    told = ", ".join(f"{interval(entry)} ({kind})" for kind, entry in kinds)
    return f"Correlation of score and length within a prompt: {told or 'not measured'}."


def ppo(report: dict) -> Panel | None:
    steps = report.get("ppo", {}).get("steps")
    if not steps:
        return None
    gold_by = report["ppo"].get("gold_by")
    titles = PPO_TITLES | ({"gold": GOLD_KEYS[gold_by]} if gold_by else {})
    drawn = []
    for key, title in titles.items():
        points = [(one["step"], one[key]) for one in steps if one.get(key) is not None]
        drawn += [figures.curve(title, {title: points}, "optimiser step")] if points else []
    look = "Reward that rises while the gold score falls, KL without an end, entropy near 0."
    points = [
        ("Came out", f"KL {steps[-1]['kl']:.2f} nats per response at the last step."),
        ("Look at", look),
    ]
    return Panel("Step 3: PPO", points, drawn)


def overoptimisation(report: dict) -> Panel | None:
    found = report.get("overoptimisation")
    if not found:
        return None
    drawn = [
        figures.overoptimisation(title, found, key)
        for key, title in (("gold", "gold score"), ("reward", "learned reward"))
        if any(row.get(key) is not None for rows in found.values() if isinstance(rows, list)
               for row in rows if isinstance(row, dict))
    ]  # fmt: skip
    look = (
        "Both rise at first. Where the learned reward goes on rising and the gold score turns, the "
        "policy learns the reward model's mistakes (Gao et al. 2022)."
    )
    points = [("Look at", look)]
    if found.get("n_prompts"):
        asked = f"{found['n_outputs']} outputs for each of {prompts_asked(found, 'n_prompts')}."
        points.insert(0, ("Best of n", asked))
    return Panel("Over-optimisation", points, drawn)
