"""The Hub: whether it answers, asked once, before its clients wait a minute for it to do so."""

import functools
import os
import sys
from pathlib import Path

from instruct.processes import is_main_process

PATIENCE = 5  # seconds for the first answer


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
    try:
        # any answer will do; through the proxy that the clients go through
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    # of whatever library the client stands on; all mean "no answer"
    except Exception as error:
        reason = str(error) or type(error).__name__
        if is_main_process():
            print(f"{constants.ENDPOINT} cannot be reached ({reason}): only its cache here is used",
                  file=sys.stderr)  # fmt: skip
        _go_offline()


def _go_offline() -> None:
    from huggingface_hub import constants

    # transformers and PEFT ask this; `datasets` has a copy of its own; helpers inherit the variable
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "datasets.config" in sys.modules:
        sys.modules["datasets.config"].HF_HUB_OFFLINE = True
