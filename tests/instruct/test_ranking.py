"""A row as a ranking."""

import pytest

from instruct.errors import UserError
from instruct.ranking import as_ranking


def test_chosen_rejected_rows_are_rankings_of_two():
    user, good, bad = (
        {"role": r, "content": c}
        for r, c in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "No"))
    )
    wanted = {"prompt": [user], "completions": ["Hello", "No"], "ranks": [1, 2]}
    assert (
        as_ranking({"chosen": [user, good], "rejected": [user, bad]}) == wanted
    )  # implicit prompt
    assert as_ranking({"prompt": [user], "chosen": [good], "rejected": [bad]}) == wanted
    assert as_ranking({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}) == wanted
    # what two texts begin with alike is no prompt: it would be cut inside a sentence
    with pytest.raises(UserError, match="no prompt"):
        as_ranking({"chosen": "Hi there, yes", "rejected": "Hi there, no"})
