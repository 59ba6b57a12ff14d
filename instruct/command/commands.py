"""Commands: how each begins and ends, whatever happens in between."""

import argparse
import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from instruct.bases import use_base
from instruct.checks.flag_ranges import check_ranges
from instruct.command.ctrl_c import raise_again, said_by_ctrl_c
from instruct.command.help import WithHelp
from instruct.command.known_errors import sentence_of
from instruct.command.last_line import say_last
from instruct.errors import UserError
from instruct.plain_text import one_line, plain_stdout
from instruct.processes import is_main_process, launcher_is_gone, typed


class _Terminated(SystemExit):
    """SIGTERM, raised where the main thread is, so that what is half-written goes."""


# what the running command gives back when it ends, however it ends
AT_END = contextlib.ExitStack()
atexit.register(AT_END.close)


class Parser(WithHelp):
    """A command's flags: a wrong one is a `UserError`, and so is a number out of its range."""

    def __init__(self, description: str | None = None):
        super().__init__(description=description)
        self.add_help_all()
        # taken by `command`, before a parser sees it
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)

    def parse_args(self, args=None, namespace=None):
        self.answer_help(sys.argv[1:] if args is None else args)
        parsed = super().parse_args(args, namespace)
        check_ranges(vars(parsed))
        if hasattr(parsed, "base_model"):
            use_base(parsed.base_model)
        return parsed

    def error(self, message: str):
        raise UserError(message)


DEBUG = "with an error, show the traceback"


def command(main: Callable) -> Callable:
    """Decorates a `main`: whatever goes wrong ends in one sentence on stderr, last and once.

    `--debug` shows the traceback above it. Exit codes: 2 for what a user can change (a `UserError`,
    a library's error that `known_errors` knows), 1 for a bug of ours, 130 for Ctrl-C, 143 for
    SIGTERM.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        raise_again()
        args, debug = _without_debug(args)
        with plain_stdout(), _sigterm_raises():
            try:
                return main(*args, **kwargs)
            except KeyboardInterrupt as error:
                _stop(said_by_ctrl_c(), 130, error)
            except _Terminated as error:
                _stop(f"stopped by SIGTERM; to continue: {typed()}", 143, error)
            except Exception as error:
                if debug:
                    traceback.print_exception(error)
                _fail(error, debug)
            finally:
                AT_END.close()

    return run


def _without_debug(args: tuple) -> tuple[tuple, bool]:
    """What a `main` is called with, less `--debug`; and whether that was there.

    Trainer has a flag of that name as well: `--debug underflow_overflow` is left to it.
    """
    given = isinstance(args[0], list) if args else False
    words = list(args[0]) if given else sys.argv[1:]
    debug = False
    if "--debug" in words:
        place = words.index("--debug")
        value = words[place + 1 : place + 2]
        stands_alone = not value or value[0].startswith("-")
        if stands_alone or value[0].lower() in ("true", "false"):
            debug = stands_alone or value[0].lower() == "true"
            del words[place : place + (1 if stands_alone else 2)]
    if given:
        return (words, *args[1:]), debug
    if debug:
        sys.argv[1:] = words
    return args, debug


def _fail(error: Exception, debug: bool):
    """Ends the command after an error: in the user's sentence, or in one that says it is ours."""
    sentence = str(error) if isinstance(error, UserError) else sentence_of(error)
    if sentence is not None:
        _leave(f"error: {one_line(sentence)}", 2, error)
    what = one_line(f"{type(error).__name__}: {error}", longest=300)
    show = "above" if debug else f"of this command: {typed()} --debug"
    _leave(f"error: a bug of instruct-recipes ({what}); please report it with the traceback {show}",
           1, error)  # fmt: skip


def _leave(line: str, code: int, error: BaseException):
    # first: the next run may begin once this one has spoken
    AT_END.close()
    _close_bars()
    say_last(line)
    _exit(code, error)


def _close_bars() -> None:
    """Ends progress bars: one that is open is drawn once more when Python ends."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        # a stream that is gone must not take the place of the sentence
        with contextlib.suppress(Exception):
            bar.close()


def _stop(line: str, code: int, error: BaseException):
    _close_bars()
    # every process of a launched run is told to stop: one of them says so
    if is_main_process():
        print(line, file=sys.stderr, flush=True)
    _exit(code, error)


def _exit(code: int, error: BaseException):
    # torch takes seconds to unload; the next run may have begun already
    if launcher_is_gone() or _in_process_group():
        AT_END.close()
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code) from error


def _in_process_group() -> bool:
    """Whether this is one of several: one that unloads torch alone can die there (SIGABRT)."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


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
