"""The report's tables as rows of plain text, header first: for Markdown and for the page.

Headers and first columns hold names that people gave: who shows a table escapes them.
"""

from instruct.evaluation.verdict import percent

HOW_COMPARED = (
    "Intervals are 95 % bootstrap over users; a tie counts half. Distinct-2: distinct pairs of "
    "words / all pairs, over all answers. Fit: log p(answer | its prompt) - log p(answer | another "
    "prompt), in nats."
)


def table_lines(rows: list[list[str]]) -> list[str]:
    """Rows of cells that are Markdown already, header first."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def interval(entry: dict | None) -> str:
    """A mean with its interval, where it has one."""
    if not entry:
        return "–"
    mean = f"{entry['mean']:.3f}"
    return mean if entry["low"] is None else f"{mean} [{entry['low']:.3f}, {entry['high']:.3f}]"


def against(pair: str) -> str:
    """The key of a win rate in words."""
    return pair.replace("_vs_", " against ")


def of_all(n: int, total: int | None, what: str, seed: int | None = None) -> str:
    """How many of how many were asked: `40 of 1627 prompts, drawn with seed 0`.

    Args:
        total: None in a report of an earlier version, which did not say.
        seed: of the draw, where there was one.
    """
    if total is None:
        return f"{n} {what}"
    if n == total:
        return f"all {n} {what}"
    return f"{n} of {total} {what}" + (f", drawn with seed {seed}" if seed is not None else "")


def prompts_asked(found: dict, count: str = "n") -> str:
    """`of_all` of what a task says of its prompts; `count` is the key of how many."""
    return of_all(found[count], found.get("of"), "prompts", found.get("seed"))


def counted(counts: dict) -> str:
    """Rows in = kept (by split, where they are) + removed, and why."""
    removed, kept = counts["removed"], counts["kept"]
    reasons = ", ".join(f"{n} {reason}" for reason, n in removed.items()) or "none"
    by_split = [f"{n} {split}" for split, n in kept.items()] if isinstance(kept, dict) else []
    total = f"{sum(kept.values())} kept ({', '.join(by_split)})" if by_split else f"{kept} kept"
    return f"{counts['in']} in = {total} + {sum(removed.values())} removed ({reasons})."


def models_table(report: dict) -> list[list[str]]:
    """A line a model: what each judge gives its answers, and what else is measured of them."""
    more = [name for name in report.get("judges", {}) if name != report["judge"]]
    header = ["model", "gold score", *more, "reward model", "tokens", "ended", "distinct-2"]
    table = [[*header, "fit to the prompt", "KL from reference"]]
    for name, model in report["models"].items():
        # its name ends in the model it is measured from
        kl = next((v for key, v in model.items() if key.startswith("kl_from_")), None)
        distinct = model.get("distinct2")
        table.append([
            name,
            interval(model.get("gold")),
            *(interval(model["scores"][other]) for other in more),
            *(interval(model.get(key)) for key in ("reward", "tokens", "ended")),
            "–" if distinct is None else f"{distinct:.2f}",
            interval(model.get("fit")),
            "–" if kl is None else f"{kl:.2f}",
        ])  # fmt: skip
    return table


def rates_table(report: dict) -> list[list[str]]:
    """A line a pair of models: its win rate by each judge, by the reward model and by length."""
    more = [name for name in report.get("judges", {}) if name != report["judge"]]
    judges = [f"by {name}" for name in (report["judge"], *more, "the reward model")]
    # length beside the judges: a judge may only like short answers
    table = [["win rate", *judges, "by length alone (shorter wins)", "n"]]
    for pair, by_gold in report["win_rate"].items():
        others = [report["judges"][name]["win_rate"][pair] for name in more]
        by_reward = report["win_rate_by_reward_model"].get(pair)
        entries = [by_gold, *others, by_reward, report["win_rate_shorter"][pair]]
        table.append([against(pair), *map(percent, entries), str(by_gold["n"])])
    return table


def people_tables(report: dict) -> list[list[list[str]]]:
    """Win rates by people; overall quality and the questions, where they were asked."""
    found = report["judgements"]
    rates = [["win rate", "by people", "n", f"by {report['judge']}"]]
    for pair, entry in found["win_rate"].items():
        by_judge = percent(report["win_rate"][pair])
        rates.append([against(pair), percent(entry), str(entry["n"]), by_judge])
    flags = list(next(iter(found["flags"].values()), {}))
    if not found["quality"] and not flags:
        return [rates]
    named = [f"{flag.replace('_', ' ')}: yes" for flag in flags]
    models = [["model", "overall quality, 1 to 7", *named]]
    for name in report["models"]:
        ticked = (found["flags"].get(name, {}).get(flag) for flag in flags)
        models.append([name, interval(found["quality"].get(name)), *map(percent, ticked)])
    return [rates, models]


def time_table(report: dict) -> list[list[str]]:
    """Seconds of each stage, and of all."""
    stages = [[name, f"{seconds:.0f}"] for name, seconds in report["seconds"].items()]
    return [["stage", "seconds"], *stages, ["all", f"{sum(report['seconds'].values()):.0f}"]]
