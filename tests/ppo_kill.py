"""Run by tests/test_ppo_resume.py: starts recipes/ppo.py again and again, killing it (SIGKILL)
after given delays.

    python tests/ppo_kill.py '<flags as JSON>' '<seconds as JSON>'

One process imports the libraries, its forks train; the last start is left to finish. Prints how
each start ended.
"""

import json
import os
import signal
import sys
import threading
import time

import conftest  # noqa: F401  (the tests' environment)

from instruct.run.checkpoints import whole_checkpoints
from recipes.ppo import cli

if __name__ == "__main__":
    flags, delays = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    out, ended = flags[flags.index("--output_dir") + 1], []
    assert threading.active_count() == 1
    for delay in [*delays, None]:
        child = os.fork()
        if child == 0:
            try:
                cli(flags)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        last = whole_checkpoints(out)
        ended.append({"exit": status, "checkpoint": last[-1].name if last else None})
    print(json.dumps(ended))
