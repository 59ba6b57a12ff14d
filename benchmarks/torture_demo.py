"""`make demo` killed in four stages: does it end in the report of an unbroken run?

    git clone . /tmp/a && git clone . /tmp/b
    make -C /tmp/a demo
    python benchmarks/torture_demo.py /tmp/b --like /tmp/a        (twice the time of the demo)

Kills the whole session (make, shell, launcher, trainer) with SIGKILL, as a machine that goes away
does: while SFT trains, while outputs are sampled, while PPO trains, while models answer. Then the
demo runs to its end. `--like` is a clone whose demo was never killed, on the same machine with the
same threads: reports, weights, samples and answers have to be equal, times aside.
The last line is one JSON object.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

DEMO = Path("outputs/demo")
TIMES = ("seconds", "timestamp")  # keys of report.json that no two runs share
SAME = (
    "demonstrations/train.jsonl",
    "sft/adapter_model.safetensors",
    "samples.jsonl",
    "reward/adapter_model.safetensors",
    "ppo/adapter_model.safetensors",
    "ppo/samples.jsonl",
    "report/answers.jsonl",
    "report/ppo.png",
)


def kills(demo: Path) -> dict[str, tuple[Callable[[], bool], float]]:
    """{stage: (whether it is well under way, seconds to wait then)}."""
    partial, answers = demo / "samples.jsonl.partial", demo / "report" / "answers"
    return {
        "sft": (lambda: any((demo / "sft").glob("checkpoint-*")), 15),
        "sample": (lambda: partial.is_file() and partial.stat().st_size > 50_000, 3),
        "ppo": (lambda: any((demo / "ppo").glob("checkpoint-*")), 20),
        "evaluate": (lambda: any(answers.glob("*.jsonl")), 10),
    }


def kill_session(leader: int) -> None:
    """SIGKILL to every process of the session that `leader` began."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                os.kill(process.pid, signal.SIGKILL)
        # it ended meanwhile
        except ProcessLookupError:
            continue


def run_and_kill(clone: Path) -> list[str]:
    """Runs the demo to its end; returns the stages in which it was killed on the way."""
    log, killed = (clone / "demo.log").open("ab"), []

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            ["make", "demo"], cwd=clone, stdout=log, stderr=log, start_new_session=True
        )

    for stage, (is_under_way, more) in kills(clone / DEMO).items():
        demo = start()
        while not is_under_way():
            if demo.poll() is not None:
                sys.exit(f"the demo ended before {stage} could be killed: {clone / 'demo.log'}")
            time.sleep(0.5)
        time.sleep(more)
        kill_session(demo.pid)
        demo.wait()
        killed.append(stage)
        print(f"killed in {stage}", flush=True)
    if start().wait() != 0:
        sys.exit(f"the last run failed: {clone / 'demo.log'}")
    return killed


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def differing(demo: Path, like: Path) -> list[str]:
    """The outputs that are not those of the unbroken run."""
    found = [n for n in SAME if (demo / n).read_bytes() != (like / n).read_bytes()]
    name = "report/report.json"
    ours, theirs = (without_times(json.loads((d / name).read_text())) for d in (demo, like))
    return found + ([] if ours == theirs else [name])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clone", type=Path, help="a clone without outputs/demo")
    parser.add_argument("--like", type=Path, required=True, help="a clone with a finished demo")
    args = parser.parse_args()
    killed = run_and_kill(args.clone)
    found = differing(args.clone / DEMO, args.like / DEMO)
    print(json.dumps({"killed": killed, "compared": len(SAME) + 1, "differing": found}))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
