"""The Hub: whether it answers. One that is away costs no run, and no wait of a minute.

What is read comes from the cache then; what is pushed comes last, and the Hub is asked anew.
"""

import functools
import os
import sys
from pathlib import Path

from instruct.processes import is_main_process

PATIENCE = (5, 10)  # seconds for the first answer, at the first try and the next: proxies are slow
LATER = (408, 429)  # answers that say "later", not "no"
# HF_HUB_OFFLINE of the environment, where this module has set it
_was: list[str | None] = []


def ask_hub(name: str | Path) -> None:
    """Before a look-up of `name`: where that is no path here and the Hub does not answer, its
    clients look into the cache alone from now on, and say at once what is not there.
    """
    if not Path(name).exists():
        _reach()


@functools.cache
def _reach() -> None:
    # imported here: commands that read local files need no Hub client
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return
    for seconds in PATIENCE:
        try:
            # any answer will do; through the proxy that the clients go through
            get_session().head(constants.ENDPOINT, timeout=seconds)
            return
        # of whatever library the client stands on; all mean "no answer"
        except Exception as error:
            reason = str(error) or type(error).__name__
    if is_main_process():
        print(f"{constants.ENDPOINT} cannot be reached ({reason}): only its cache here is used",
              file=sys.stderr)  # fmt: skip
    _was.append(os.environ.get("HF_HUB_OFFLINE"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    _offline(True)


def ask_anew() -> None:
    """Before a push: a Hub that was away hours ago may be back, so its clients try again."""
    if _was:
        before = _was.pop()
        if before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        _offline(False)
        _reach.cache_clear()


def _offline(value: bool) -> None:
    from huggingface_hub import constants

    # transformers and PEFT ask this; `datasets` has a copy of its own; helpers inherit the variable
    constants.HF_HUB_OFFLINE = value
    if "datasets.config" in sys.modules:
        sys.modules["datasets.config"].HF_HUB_OFFLINE = value


def is_refusal(error: BaseException) -> bool:
    """Whether the Hub said no (to the token, to the name), which it will say again."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return 400 <= status < 500 and status not in LATER
    # what no Hub was asked for: a name that cannot be one
    return isinstance(error, HFValidationError)
