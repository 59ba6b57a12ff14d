"""The error that a user can act on, which every command ends in as one sentence."""


class UserError(ValueError):
    """A mistake in what the user gave (file, row or flag): what is wrong and what to do."""
