"""People rank, judge and write: items and answers in one database, agreement, the page."""
