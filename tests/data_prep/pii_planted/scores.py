"""What the prompt step finds in planted texts, and how right that is, by kind."""

import random
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import duckdb
import pyarrow as pa

from data_prep.pii import KINDS, REGIONS, Found, candidate_pattern, find_pii
from tests.data_prep.pii_planted import contacts, numbers, secrets
from tests.data_prep.pii_planted.items import Item

# what a finding may take beside the value: a bracket, a quote, an extension, the word before it
SPARE = {"phone": 8, "card": 1, "email": 0, "iban": 1, "ipv4": 0, "ipv6": 0, "national_id": 4}


def planted(seed: int = 16) -> list[Item]:
    """Some 900 texts, each with one thing to find."""
    rng = random.Random(seed)
    found = [*contacts.emails(rng, 120), *contacts.phones_abroad(rng, 150)]
    found += [*contacts.phones_at_home(rng, 5), *numbers.cards(rng, 15), *numbers.ibans(rng, 60)]
    found += [*numbers.ssns(rng, 42), *numbers.addresses(rng, 50)]
    return found + secrets.secrets(rng, 3)


class Score(NamedTuple):
    planted: int
    hits: int
    right: int  # findings of the kind that are as planted; of all phones, for both their families
    wrong: int  # findings of the kind where there is nothing of it

    @property
    def recall(self) -> float:
        return self.hits / self.planted

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0


def found_by_commands(texts: list[str]) -> list[list[Found]]:
    """As `data_prep.prompts` looks: the engine's pattern of each kind, then the finder."""
    table = pa.table({"row": range(len(texts)), "text": texts})
    flags = ", ".join(f"regexp_matches(text, '{_quoted(kind)}') AS {kind}" for kind in KINDS)
    with duckdb.connect() as engine:
        engine.register("texts", table)
        rows = engine.execute(f"SELECT row, {flags} FROM texts ORDER BY row").fetchall()
    return [
        find_pii(
            text, [kind for kind, on in zip(KINDS, row[1:], strict=True) if on], REGIONS, False
        )
        for text, row in zip(texts, rows, strict=True)
    ]


def _quoted(kind: str) -> str:
    return candidate_pattern([kind]).replace("'", "''")


def family(item: Item) -> str:
    """What a bar is for: the kind, phones abroad and at home apart."""
    if item.kind != "phone":
        return item.kind
    return "phone +" if item.group.startswith("phone +") else "phone at home"


def is_hit(item: Item, span: Found) -> bool:
    """Covers the whole value, and takes no sentence along; a secret may take its name or URL."""
    start = item.text.index(item.value)
    end = start + len(item.value)
    if span.kind != item.kind or span.start > start or span.end < end:
        return False
    spare = SPARE.get(item.kind, len(item.text))
    return start - span.start <= spare and span.end - end <= spare


def score(items: Iterable[Item]) -> tuple[dict[str, Score], list[str]]:
    """Scores by family, and a line for everything that is not as planted."""
    items = list(items)
    planted, hits, right, wrong, lines = Counter(), Counter(), Counter(), Counter(), []
    for item, spans in zip(items, found_by_commands([i.text for i in items]), strict=True):
        good = [span for span in spans if item.kind and is_hit(item, span)]
        if item.kind:
            planted[family(item)] += 1
            hits[family(item)] += bool(good)
            right[item.kind] += bool(good)
            if not good:
                lines.append(f"missed  {item.group}: {item.text!r} ({item.value!r})")
        for span in spans:
            if span not in good:
                wrong[span.kind] += 1
                value = item.text[span.start : span.end]
                lines.append(f"wrong   {item.group}: {item.text!r} -> {span.kind} {value!r}")
    kinds = {family(item): item.kind for item in items if item.kind}
    scores = {
        name: Score(planted[name], hits[name], right[kind], wrong[kind])
        for name, kind in kinds.items()
    }
    return scores, lines


def table(scores: dict[str, Score]) -> str:
    """The scores as people read them."""
    lines = ["kind           planted  hits wrong  precision recall"]
    for name, s in scores.items():
        line = f"{name:14} {s.planted:7} {s.hits:5} {s.wrong:5}  {s.precision:9.4f} {s.recall:6.4f}"
        lines.append(line)
    return "\n".join(lines)
