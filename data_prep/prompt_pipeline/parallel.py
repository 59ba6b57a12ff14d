"""A function over many jobs in several processes, results in order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext

from instruct.errors import UserError

# imported once, by the server that workers are forked from, not in every worker: what they call,
# and what the command imports, as multiprocessing runs its module again in each of them
_ROOMS = ("checks", "near_duplicates", "outputs", "overlap", "pii_step", "report", "staging")
PRELOAD = [*(f"data_prep.prompt_pipeline.{name}" for name in _ROOMS)]
PRELOAD += ["duckdb", "tqdm", "instruct.command.commands", "instruct.run.data_runs"]
# PyArrow imports it for the first array of a process: 0.3 s
PRELOAD += ["pandas"]


def parallel(function: Callable, jobs: Iterable[tuple], processes: int) -> Iterator:
    """Results of `function(*job)` in order. A single job, or one process, runs right here.

    Jobs are drawn as workers become free, so a log is never held in memory. `function` is sent by
    its name: it must stand at the top of a module.

    Raises:
        UserError: a worker was killed.
    """
    jobs = iter(jobs)
    # `range` first: the other way round, zip would draw a third job and lose it
    head = [job for _, job in zip(range(2), jobs, strict=False)]
    if processes < 2 or len(head) < 2:
        yield from (function(*job) for job in head)
        yield from (function(*job) for job in jobs)
        return
    with ProcessPoolExecutor(processes, _context(), _leave_with_parent) as pool:
        pending = {i: pool.submit(function, *job) for i, job in enumerate(head)}
        submitted, due = len(pending), 0
        try:
            # what is done but not due counts as pending: memory stays bounded behind a slow job
            while pending:
                # two more than there are workers: nobody waits for the next job to be read
                while len(pending) < processes + 2 and (job := next(jobs, None)) is not None:
                    # drawn here, one by one: the pool's own `map` would take all jobs at once
                    pending[submitted] = pool.submit(function, *job)
                    submitted += 1
                if due in pending and pending[due].done():
                    yield pending.pop(due).result()
                    due += 1
                else:
                    wait([pending[due]], return_when=FIRST_COMPLETED)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, out of memory perhaps; try --num_proc 1"
            ) from error
        finally:
            for future in pending.values():
                future.cancel()


def _context() -> BaseContext:
    """Not "fork": engines have threads, and a fork would copy their locks."""
    # Windows has only "spawn"
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(PRELOAD)
    return context


def _leave_with_parent() -> None:
    """A worker ends when the main process is gone (killed), whatever it waits for."""
    # Ctrl-C reaches workers too; the main process tells it, once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the main process, not the fork server: that one waits for its workers' end
    main_process = multiprocessing.parent_process()

    def watch():
        main_process.join()
        # not sys.exit, which would end this thread alone
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
