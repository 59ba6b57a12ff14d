"""Every stage killed, damaged and starved of disk: does the same command then end the same?

    python benchmarks/torture.py [--stage NAME …] [--kills 7] [--seed 0]        (make torture)

Tiny models, made here. Of each stage an unbroken run is kept; then, in the same place,

- it is killed by SIGKILL, SIGTERM and SIGINT, `--kills` times each, as it is about to open, rename
  or remove a file, and run again: exit 0, nothing left beside the outputs, the same outputs (bytes;
  of training: weights, log, samples, metrics), no process left;
- files of what a kill left (of training: of its newest checkpoint) are cut, zeroed, removed or
  filled with garbage, and it is run again: the same outputs, or one sentence, never a traceback;
- the disk is full from some file on: one sentence, and with space the next run ends the same;
- it is run twice at once: the second is refused, the first ends the same.

Runs are forks of this process, which has imported everything; so kills come at the same file
events in each. Prints a line per stage, and last one JSON object.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torture_runs import (
    NOT_COMPARED,
    Outcome,
    Stage,
    damage,
    differing,
    run,
    run_forked,
    tree,
    wait_for,
)
from torture_stages import import_everything, make_inputs, stages

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
HOWS = ("truncated", "zeroed", "removed", "garbage")


@dataclass
class Tally:
    """What came out, over all stages."""

    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, good: bool, name: str, fault: str) -> None:
        self.counts[name] += good
        if not good:
            self.faults.append(fault)
            print(f"   fault: {fault}"[:600], flush=True)


class Torture:
    """One stage, its unbroken run and everything that is done to it."""

    def __init__(self, stage: Stage, home: Path, tally: Tally, kills: int, seed: int):
        self.stage, self.tally, self.kills = stage, tally, kills
        self.draw = random.Random(f"{seed} {stage.name}")
        self.root = home / stage.name / "run"
        self.root.parent.mkdir()
        self.events: list[str] = []
        self.expected = self._unbroken()

    def _unbroken(self) -> dict[str, bytes]:
        """Two unbroken runs: file events of the first, and what differs by itself."""
        events = self.root.with_name("events.jsonl")

        def note(number: int, event: str) -> None:
            with os.fdopen(os.dup(self._notes), "a") as out:
                out.write(json.dumps(event) + "\n")

        trees = []
        for _ in range(2):
            self._fresh()
            self._notes = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            outcome = run(self.stage, self.root, note)
            os.close(self._notes)
            if outcome.code:
                sys.exit(
                    f"{self.stage.name}, unbroken: exit {outcome.code}\n{outcome.said[-3000:]}"
                )
            trees.append(tree(self.root))
        self.events = [json.loads(line) for line in events.read_text().splitlines()]
        self.seconds = outcome.seconds
        first, second = trees
        ignored = {name for name in first if name.endswith(NOT_COMPARED)}
        ignored |= {name for name in first if "optimizer" in name or "rng_state" in name}
        unlike = differing(second, first, ignored)
        if unlike or first.keys() != second.keys():
            sys.exit(f"{self.stage.name}: two unbroken runs differ in {unlike}")
        self.ignored = ignored
        return first

    def _fresh(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()

    def _wrong(self, outcome: Outcome) -> str | None:
        """What is wrong after a run that should have ended as the unbroken one."""
        got = tree(self.root)
        extra = sorted(got.keys() - self.expected.keys())
        unlike = differing(got, self.expected, self.ignored)
        self.tally.counts["leftovers"] += len(extra)
        self.tally.counts["processes_left"] += outcome.left
        if outcome.code:
            return f"exit {outcome.code}: {outcome.said.strip()[-300:]}"
        return f"leftovers {extra[:5]}, unlike {unlike[:5]}" if extra or unlike else None

    def _picks(self, count: int) -> list[int]:
        """File events, counted from 1: spread over the run, and the last one."""
        width = len(self.events) / count
        spread = [int(i * width + self.draw.random() * width) + 1 for i in range(count)]
        return [*spread[:-1], len(self.events)] if self.draw.random() < 0.5 else spread

    def kill(self) -> None:
        for number in SIGNALS:
            for event in self._picks(self.kills):

                def at(count: int, _: str, event=event, number=number) -> None:
                    if count == event:
                        os.kill(os.getpid(), number)

                self._fresh()
                outcome = run(self.stage, self.root, at)
                if outcome.code == 0:
                    continue  # it was over before
                self.tally.counts["kills"] += 1
                self.tally.counts["processes_left"] += outcome.left
                wrong = self._wrong(run(self.stage, self.root))
                where = f"{self.stage.name}, {number.name} before {self.events[event - 1]}"
                self.tally.add(wrong is None, "equal", f"{where}: {wrong}")

    def _damageable(self, event: int) -> Iterator[tuple[Path, str]]:
        """Leaves what a kill at `event` leaves, once for each (file, how)."""

        def at(count: int, _: str) -> None:
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

        self._fresh()
        run(self.stage, self.root, at)
        kept = self.root.with_name("kept")
        shutil.rmtree(kept, ignore_errors=True)
        self.root.rename(kept)
        whole = sorted(kept.rglob("*/checkpoint-*/files.json"), key=lambda p: p.stat().st_mtime)
        within = whole[-1].parent if self.stage.trains else kept
        # half a secret is another secret, which nobody can tell
        files = sorted(p for p in within.rglob("*") if p.is_file() and p.suffix != ".key")
        for number, path in enumerate(files):
            # two of the four for each file
            for how in (HOWS[number % 4], HOWS[(number + 2) % 4]):
                shutil.rmtree(self.root, ignore_errors=True)
                shutil.copytree(kept, self.root, symlinks=True)
                yield self.root / path.relative_to(kept), how

    def damaged(self) -> None:
        # late: there are checkpoints, or half of the outputs
        event = int(len(self.events) * 0.8)
        for file, how in self._damageable(event):
            damage(file, how)
            outcome = run(self.stage, self.root)
            where = f"{self.stage.name}, {file.relative_to(self.root)} {how}"
            self.tally.counts["damaged"] += 1
            if "Traceback" in outcome.said:
                self.tally.add(False, "", f"{where}: {outcome.said.strip()[-400:]}")
                self.tally.counts["damaged_tracebacks"] += 1
            elif outcome.one_sentence:
                self.tally.counts["damaged_refused"] += 1
            else:
                wrong = self._wrong(outcome)
                self.tally.add(wrong is None, "damaged_equal", f"{where}: {wrong}")
                self.tally.counts["damaged_unlike"] += wrong is not None

    def full_disk(self) -> None:
        for event in self._picks(3):

            def at(count: int, what: str, event=event) -> None:
                if count >= event and what.startswith("open"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what.partition(" ")[2])

            self._fresh()
            outcome = run(self.stage, self.root, at)
            if outcome.code == 0:
                continue
            self.tally.counts["full_disk"] += 1
            where = f"{self.stage.name}, disk full before {self.events[event - 1]}"
            said = outcome.said.strip()[-300:]
            self.tally.add(outcome.one_sentence, "full_disk_one_sentence", f"{where}: {said}")
            wrong = self._wrong(run(self.stage, self.root))
            self.tally.add(wrong is None, "full_disk_equal", f"{where}, run again: {wrong}")

    def two_at_once(self) -> None:
        event = len(self.events) // 2

        def at(count: int, _: str) -> None:
            if count == event:
                os.kill(os.getpid(), signal.SIGSTOP)

        self._fresh()
        first = run_forked(self.stage, self.root, at)
        os.waitpid(first, os.WUNTRACED)
        second = run(self.stage, self.root)
        os.kill(first, signal.SIGCONT)
        wrong = self._wrong(wait_for(first, self.root))
        self.tally.counts["two_at_once"] += 1
        said = second.said.strip()[-300:]
        where = f"{self.stage.name}, two at once"
        good = second.one_sentence and wrong is None
        self.tally.add(good, "two_at_once_refused", f"{where}: {said} / {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", nargs="+", help="these alone")
    parser.add_argument("--kills", type=int, default=7, help="of each stage, by each signal")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "source"
        source.mkdir()
        todo = [s for s in stages(source) if not args.stage or s.name in args.stage]
        unknown = set(args.stage or ()) - {stage.name for stage in todo}
        if unknown:
            parser.error(f"no stage {', '.join(sorted(unknown))}")
        import_everything(todo)
        make_inputs(source)
        for stage in todo:
            torture = Torture(stage, Path(home), tally, args.kills, args.seed)
            torture.kill()
            torture.damaged()
            torture.full_disk()
            torture.two_at_once()
            minutes = (time.monotonic() - started) / 60
            print(
                f"{stage.name}: {len(torture.events)} file events, {torture.seconds:.1f} s a run; "
                f"so far {dict(tally.counts)}, {minutes:.1f} min",
                flush=True,
            )
    print(json.dumps(result(tally, time.monotonic() - started)))
    sys.exit(bool(tally.faults))


def result(tally: Tally, seconds: float) -> dict:
    counts = tally.counts
    return {
        "kills": counts["kills"],
        "equal": counts["equal"],
        "leftovers": counts["leftovers"],
        "processes_left": counts["processes_left"],
        "damaged": {
            "tried": counts["damaged"],
            "equal": counts["damaged_equal"],
            "refused": counts["damaged_refused"],
            "unlike": counts["damaged_unlike"],
            "tracebacks": counts["damaged_tracebacks"],
        },
        "full_disk": {
            "tried": counts["full_disk"],
            "one_sentence": counts["full_disk_one_sentence"],
            "equal": counts["full_disk_equal"],
        },
        "two_at_once": {"tried": counts["two_at_once"], "refused": counts["two_at_once_refused"]},
        "faults": len(tally.faults),
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    main()
