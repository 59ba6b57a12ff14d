"""The steps as Ibis expressions over narrow columns, the same on DuckDB and on Spark.

Every step takes and gives `row, id, user, time, key` and what earlier steps added: `owner` and
`split`, then `reason` (null while a row stays), `kept_id` and `dup_count`. Texts stay behind and
are joined back by `row` at the end: windows over narrow columns take half the time.
"""

import ibis

from data_prep.pii import candidate_pattern


def with_split(rows: ibis.Table, splits: dict[str, float], seed: int) -> ibis.Table:
    """Split by user (paper, section 3.2): a hash of seed and user id alone.

    So nobody moves when the log grows. A prompt without a user id is its own user, by its id.
    """
    owner = ibis.ifelse(
        rows.user.isnull(), ibis.literal("row:") + rows.id, ibis.literal("user:") + rows.user
    )
    digest = (ibis.literal(f"{seed}:split:") + owner).hexdigest("md5")
    *names, last = splits
    cases, reached = [], 0.0
    for name in names:
        reached += splits[name]
        # hexadecimal digests compare like the numbers they are; 15 digits are plenty
        bound = min(int(reached * 2**60), 2**60 - 1)
        cases.append((digest < f"{bound:015x}", name))
    split = ibis.cases(*cases, else_=last) if cases else ibis.literal(last)
    return rows.mutate(owner=owner, split=split)


def earliest_first(rows: ibis.Table, numeric_ids: bool) -> list[ibis.Value]:
    """By timestamp (none comes last), then id (all numbers: as numbers), then place in the log."""
    return [
        rows.time.asc(nulls_first=False),
        rows.id.cast("int64") if numeric_ids else rows.id,
        rows.row,
    ]


def without_shared_prefixes(rows: ibis.Table, numeric_ids: bool) -> ibis.Table:
    """Of the rows with one key the earliest stays (paper, section 3.2), over all splits."""
    group = ibis.window(group_by=rows.key, order_by=earliest_first(rows, numeric_ids))
    size = rows.count().over(ibis.window(group_by=rows.key))
    duplicate = rows.row.first().over(group) != rows.row
    return rows.mutate(
        kept_id=ibis.ifelse(duplicate, rows.id.first().over(group), ibis.null("string")),
        dup_count=ibis.ifelse(duplicate, ibis.null("int64"), size),
        reason=ibis.ifelse(duplicate, "duplicate_prefix", ibis.null("string")),
    )


def marked(
    rows: ibis.Table, marks: ibis.Table, reason: str, splits: list[str] | None = None
) -> ibis.Table:
    """Gives `reason` to the rows in `marks` that no earlier step removed.

    Args:
        marks: `row`, and `kept_id` (the id that is kept in its place, or null).
        splits: only rows of these; None for all.
    """
    marks = marks.select(mark=marks.row, mark_kept_id=marks.kept_id)
    joined = rows.left_join(marks, rows.row == marks.mark)
    hit = joined.mark.notnull() & joined.reason.isnull()
    if splits:
        hit = hit & joined.split.isin(splits)
    return joined.mutate(
        reason=ibis.ifelse(hit, reason, joined.reason),
        kept_id=ibis.ifelse(hit, joined.mark_kept_id, joined.kept_id),
    ).drop("mark", "mark_kept_id")


def at_most_per_user(rows: ibis.Table, most: int, seed: int) -> ibis.Table:
    """At most `most` prompts of one user (paper, section 3.2).

    A seeded choice that depends on nothing but the prompts. Rows without a user id are not counted.
    """
    order = (ibis.literal(f"{seed}:cap:") + rows.id + ":" + rows.key).hexdigest("md5")
    rows = rows.mutate(order=order, left=rows.reason.isnull())
    place = ibis.row_number().over(
        ibis.window(group_by=[rows.owner, rows.left], order_by=[rows.order, rows.row])
    )
    over = rows.left & (place >= most) & rows.user.notnull()
    return rows.mutate(reason=ibis.ifelse(over, "over_user_cap", rows.reason)).drop("order", "left")


def with_pii_candidates(rows: ibis.Table, kinds: tuple[str, ...]) -> ibis.Table:
    """The few rows that go on to Python: `row, prompt, history`, and a flag per kind to look for.

    Python costs tens of microseconds a row, the engine's own regular expressions less than one.
    """

    def matches(pattern: str) -> ibis.Value:
        return rows.prompt.re_search(pattern) | rows.history.fill_null("").re_search(pattern)

    flags = {kind: matches(candidate_pattern([kind])) for kind in kinds}
    return (
        rows.filter(matches(candidate_pattern(kinds)))
        .select("row", "prompt", "history", **flags)
        .order_by("row")
    )
