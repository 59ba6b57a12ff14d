"""A Hub that cannot be reached when training starts stops nothing: the push comes last anyway."""

from instruct.files import UserError
from instruct.run.run_record import on_main

# answers of the Hub that say "later", not "no"
LATER = (408, 429)


def is_refusal(error: Exception) -> bool:
    """Whether the Hub said no (to the token, to the name), which it will say again at the end."""
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    if status is not None:
        return 400 <= status < 500 and status not in LATER
    # what no Hub was asked for: a name that cannot be one
    return isinstance(error, ValueError)


class HubMayBeAway:
    """Goes before a `Trainer` in a class's bases, for `--push_to_hub`.

    A repository that cannot be made at the start is made by `runs.push`; until then nothing is
    pushed.
    """

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Raises: UserError: the Hub refuses, on every process; one that is away is said."""
        make = super().init_hf_repo

        def try_to_make() -> None:
            try:
                make(*args, **kwargs)
            # the Hub client raises many unrelated types
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                if is_refusal(error):
                    raise UserError(
                        f"--push_to_hub: the Hub refuses ({reason}); log in by `hf auth login` or "
                        "set HF_TOKEN, and look at --hub_model_id"
                    ) from error
                print(
                    f"the Hub cannot be reached ({reason}): nothing is pushed before training "
                    "ends, then it is tried again"
                )

        on_main(try_to_make)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # without a repository there is nowhere to push to
        if self.hub_model_id is not None:
            super()._push_from_checkpoint(checkpoint_folder)
