"""The page's figures: SVG with the page's own text colour, so they are right in light and dark."""

import io
import re
from collections.abc import Callable, Sequence

from markupsafe import Markup

INK = "#010203"  # stands for the page's text colour until the SVG is written
BLUE, ORANGE = "#3d85c6", "#d9822b"  # read on white and on black, and by the colour-blind
SMALL, WIDE = (3.4, 2.3), (6.4, 3.2)  # inches
Points = Sequence[tuple[float, float]]


def svg(draw: Callable, label: str, size: tuple[float, float] = SMALL) -> Markup:
    """What `draw(axes)` draws, as one `<svg>` element that needs nothing from elsewhere.

    Args:
        label: what a screen reader says of it.
    """
    # imported here: slow, and only reports draw
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        # numbers without figures are a report, too
        return Markup("{}: figures need matplotlib (pip install matplotlib).").format(label)

    look = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": label,  # ids are the same at every run, and no other figure's
        "font.size": 8,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    # the element alone, as wide as the page lets it
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r' (width|height)="[\d.]+pt"', "", drawn, count=2)
    # what it says of itself names its maker's site: nothing that is shown
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    named = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(drawn.replace("<svg", str(named), 1).replace(INK, "currentColor"))


def curve(title: str, lines: dict[str, Points], x: str = "step", dots: bool = False) -> Markup:
    """A small panel with a line for each name; one alone is not named.

    Args:
        lines: {name: [(x, y)]}.
        dots: of measurements that go back and forth, joined by a thin line.
    """

    def draw(axes) -> None:
        for (name, points), color in zip(lines.items(), (BLUE, ORANGE), strict=False):
            # a single point is no line
            look = {"marker": "o", "ms": 3.5} if dots or len(points) < 4 else {}
            look["lw"] = 0.5 if dots else 1.3
            axes.plot(*zip(*points, strict=True), label=name, color=color, **look)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(x)
        if len(lines) > 1:
            axes.legend()

    return svg(draw, f"{title} by {x}")


def win_rates(title: str, rows: list[tuple[str, dict]]) -> Markup:
    """A dot and its interval for each model, in percent; the line at 50 is a draw.

    Args:
        rows: (model, win rate), as `instruct.evaluation.statistics.win_rate` gives it.
    """

    def draw(axes) -> None:
        for at, (_, entry) in enumerate(reversed(rows)):
            rate, low, high = (100 * entry[key] for key in ("rate", "low", "high"))
            axes.plot([low, high], [at, at], color=BLUE, lw=3, alpha=0.5, solid_capstyle="round")
            axes.plot(rate, at, "o", color=BLUE)
        # a dollar would begin a formula
        names = [name.replace("$", r"\$") for name, _ in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(0, 100)
        axes.axvline(50, color=INK, lw=0.8, ls="--")
        axes.set_xlabel("preferred, % (95 % interval over users)")
        axes.set_title(title.replace("$", r"\$"), fontsize=9)

    return svg(draw, title, (WIDE[0], 1.0 + 0.32 * len(rows)))


def reliability(bins: list[dict]) -> Markup:
    """How sure the reward model is of a pair against how often it is right.

    Args:
        bins: `predicted`, `observed` (shares) and `n` (pairs) of each.
    """
    filled = [one for one in bins if one["n"]]

    def draw(axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--", label="as sure as it is right")
        x, y = ([one[key] for one in filled] for key in ("predicted", "observed"))
        most = max(one["n"] for one in filled)
        axes.plot(x, y, color=BLUE, lw=1)
        # a dot's area is its share of the pairs
        axes.scatter(x, y, s=[8 + 60 * one["n"] / most for one in filled], color=BLUE)
        axes.set_xlabel("predicted: σ(difference of scores)")
        axes.set_ylabel("how often it is the better one")
        axes.set_title("Is the reward model as sure as it is right?", fontsize=9)
        axes.legend(fontsize=7)

    return svg(draw, "reliability diagram of the reward model", (4.2, 3.2))


def overoptimisation(title: str, found: dict[str, list[dict]], key: str) -> Markup:
    """One reward against the root of KL, by PPO and by best-of-n (Gao et al. 2022, figure 1).

    Args:
        found: {"ppo", "best_of_n": rows with `sqrt_kl`, `reward` and `gold`}.
        key: `gold` or `reward`.
    """
    names = {"ppo": "PPO", "best_of_n": "best of n"}
    lines = {
        names[way]: [(row["sqrt_kl"], row[key]) for row in rows if row.get(key) is not None]
        for way, rows in found.items()
        if way in names
    }
    return curve(
        title, {name: points for name, points in lines.items() if points}, "√KL (√nats)", dots=True
    )
