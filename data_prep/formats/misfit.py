"""What a row that does not fit its format raises."""

from instruct.errors import UserError


class Misfit(UserError):
    """A row that is not what its file's format says. The message says why, without file and row."""
