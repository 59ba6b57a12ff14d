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
    # prefixes, or a user named like a prompt's id would share its split
    owner = ibis.ifelse(
        rows.user.isnull(), ibis.literal("row:") + rows.id, ibis.literal("user:") + rows.user
    )
    # the step's name is in the hash, so the cap's order owes nothing to the split; md5, as both
    # engines have it and agree
    digest = (ibis.literal(f"{seed}:split:") + owner).hexdigest("md5")
    # the last split takes what rounding leaves
    *names, last = splits
    cases, reached = [], 0.0
    for name in names:
        reached += splits[name]
        # hexadecimal digests compare like the numbers they are; 15 digits are plenty
        # shares may sum to a hair over 1, and a 16th digit would break the comparison
        bound = min(int(reached * 2**60), 2**60 - 1)
        cases.append((digest < f"{bound:015x}", name))
    split = ibis.cases(*cases, else_=last) if cases else ibis.literal(last)
    return rows.mutate(owner=owner, split=split)


def earliest_first(rows: ibis.Table, numeric_ids: bool) -> list[ibis.Value]:
    """By timestamp (none comes last), then id (all numbers: as numbers), then place in the log."""
    return [
        # engines differ in where nulls go
        rows.time.asc(nulls_first=False),
        # as text, 10 stands before 9
        rows.id.cast("int64") if numeric_ids else rows.id,
        # ids may repeat: the place breaks every tie, so runs agree
        rows.row,
    ]


def without_shared_prefixes(rows: ibis.Table, numeric_ids: bool) -> ibis.Table:
    """Of the rows with one key the earliest stays (paper, section 3.2), over all splits."""
    group = ibis.window(group_by=rows.key, order_by=earliest_first(rows, numeric_ids))
    # a window without an order: with one it would count up to each row
    size = rows.count().over(ibis.window(group_by=rows.key))
    duplicate = rows.row.first().over(group) != rows.row
    return rows.mutate(
        kept_id=ibis.ifelse(duplicate, rows.id.first().over(group), ibis.null("string")),
        # only the prompt that stays stands for the others
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
    # renamed, or both sides of the join have a `row`
    marks = marks.select(mark=marks.row, mark_kept_id=marks.kept_id)
    joined = rows.left_join(marks, rows.row == marks.mark)
    # the first reason holds, so that the steps' counts add up
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
    # by id and text, not by place: another order of the log gives the same choice
    order = (ibis.literal(f"{seed}:cap:") + rows.id + ":" + rows.key).hexdigest("md5")
    rows = rows.mutate(order=order, left=rows.reason.isnull())
    place = ibis.row_number().over(
        # grouped by `left` too: removed rows use up nobody's places
        ibis.window(group_by=[rows.owner, rows.left], order_by=[rows.order, rows.row])
    )
    over = rows.left & (place >= most) & rows.user.notnull()
    return rows.mutate(reason=ibis.ifelse(over, "over_user_cap", rows.reason)).drop("order", "left")


def with_pii_candidates(rows: ibis.Table, kinds: tuple[str, ...]) -> ibis.Table:
    """The few rows that go on to Python, with a flag per kind to look for, in row order.

    Python costs tens of microseconds a row, the engine's own regular expressions less than one.
    """

    def matches(pattern: str) -> ibis.Value:
        return rows.prompt.re_search(pattern) | rows.history.fill_null("").re_search(pattern)

    # a flag per kind: Python then runs only the finders with a chance
    flags = {kind: matches(candidate_pattern([kind])) for kind in kinds}
    return (
        # one alternation: most rows are done after one pass
        rows.filter(matches(candidate_pattern(kinds))).select("row", **flags).order_by("row")
    )
