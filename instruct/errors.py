"""The error that a user can act on, which every command ends in as one sentence."""


class UserError(ValueError):
    """A mistake in what the user gave (file, row or flag): what is wrong and what to do."""


def first_line(error: Exception) -> str:
    """What a library says first; its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
