"""Commands: how each begins and ends, whatever happens in between."""

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from instruct.files import UserError
from instruct.known_errors import disk_sentence
from instruct.processes import is_main_process, launcher_is_gone, overwrites, typed


class _Terminated(SystemExit):
    """SIGTERM, raised where the main thread is, so that what is half-written goes."""


# what the running command gives back when it ends, however it ends
AT_END = contextlib.ExitStack()
atexit.register(AT_END.close)


def command(main: Callable) -> Callable:
    """Decorates a `main`: what a user can change ends in one sentence on stderr, no traceback.

    Exit codes: 2 for a `UserError` or a disk that cannot be written (as argparse on a wrong flag),
    130 for Ctrl-C, 143 for SIGTERM.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        with _sigterm_raises():
            try:
                return main(*args, **kwargs)
            except UserError as error:
                _leave(f"error: {error}", 2, error)
            except KeyboardInterrupt as error:
                _leave(f"stopped by Ctrl-C; to continue: {typed()}", 130, error)
            except _Terminated as error:
                _leave(f"stopped by SIGTERM; to continue: {typed()}", 143, error)
            except Exception as error:
                sentence = disk_sentence(error)
                if sentence is None:
                    raise
                less = " without --overwrite_output_dir" if overwrites() else ""
                _leave(f"error: {sentence}, then run the same command again{less}", 2, error)
            finally:
                AT_END.close()

    return run


def _leave(line: str, code: int, error: BaseException):
    # every process of a launched run is told to stop: one of them says so
    if code < 128 or is_main_process():
        print(line, file=sys.stderr, flush=True)
    # torch takes seconds to unload; the next run may have begun already
    if launcher_is_gone():
        AT_END.close()
        os._exit(code)
    raise SystemExit(code) from error


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the block as Ctrl-C does; a second one ends the process at once."""

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # a forked helper has the handler too: it ends as if it had none
        if os.getpid() != owner:
            os.kill(os.getpid(), number)
            return
        raise _Terminated(143)

    owner = os.getpid()
    main_thread = threading.current_thread() is threading.main_thread()
    # a handler of the user's own stays
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
