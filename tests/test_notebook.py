"""notebooks/colab.ipynb, cell by cell, on a tiny model; after a disconnect it continues."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import TOPICS, write_jsonl

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "colab.ipynb"
# Every step is a process of its own and starting one takes seconds: here one process runs all
# cells, and the steps itself.
DRIVER = """
import contextlib, importlib, io, json, os, shlex, sys
cells = json.load(open(sys.argv[1]))["cells"]
cells = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]

def run_here(command):
    words = shlex.split(command)
    while words[0] != "-m" and not words[0].endswith(".py"):
        words.pop(0)
    if words[:2] == ["-m", "accelerate.commands.launch"]:
        assert os.path.exists(words[3]), words[3]
        words = words[4:]
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    print("$$", name, flush=True)
    module = importlib.import_module(name)
    (getattr(module, "cli", None) or module.main)(words[2 if words[0] == "-m" else 1:])

scope = {"__name__": "__main__"}
for source in cells:
    exec(compile(source, "cell", "exec"), scope)
    if "def run(" in source:
        scope["run"] = run_here
"""


def execute(folder: Path, settings: dict) -> str:
    (folder / "driver.py").write_text(DRIVER)
    env = {
        **os.environ,
        "NOTEBOOK_SETTINGS": json.dumps(settings),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(folder / "driver.py"), str(NOTEBOOK)]
    done = subprocess.run(
        command, cwd=ROOT / "notebooks", env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_notebook_runs_top_to_bottom_and_continues(tmp_path, tiny_model):
    log = [
        {"id": f"{u}-{t}", "user_id": f"user {u}", "prompt": f"What is {t} number {u}?"}
        for u in range(60)
        for t in TOPICS[:3]
    ]
    answers = [
        {
            "prompt": r["prompt"],
            "completion": "It is great.",
            "prompt_id": r["id"],
            "source": "test",
        }
        for r in log
    ]
    common = [
        "--report_to", "none", "--lora_r", "2", "--max_steps", "2", "--save_steps", "2",
        "--logging_steps", "1",
    ]  # fmt: skip
    settings = {
        "output_dir": str(tmp_path / "out"),
        "base_model": tiny_model,
        "num_prompts": 24,
        "num_outputs": 3,
        "prompt_log": write_jsonl(tmp_path / "log.jsonl", log),
        "answers": write_jsonl(tmp_path / "answers.jsonl", answers),
        "max_new_tokens": 16,
        "eval_prompts": 6,
        "more_flags": {
            "sft": common,
            "reward": common,
            "ppo": [*common, "--rollout_batch_size", "8"],
        },
    }
    printed = execute(tmp_path, settings)
    for line in (
        "sft: evaluation loss",
        "reward: training loss",
        "ppo: KL from SFT",
        "prompt: What is",
        "base",
        "preferred by",
    ):
        assert line in printed, line
    out = tmp_path / "out"
    assert (out / "ppo" / "finished.json").is_file() and (out / "report" / "report.json").is_file()

    # disconnected while PPO ran: only that, and what follows, is done again
    (out / "ppo" / "finished.json").unlink()
    (out / "report" / "answers.jsonl").unlink()
    kept = {
        p: p.stat().st_mtime_ns
        for p in (
            out / "sft" / "merged" / "model.safetensors",
            out / "samples.jsonl",
            out / "reward" / "adapter_model.safetensors",
        )
    }
    again = execute(tmp_path, settings)
    assert kept == {p: p.stat().st_mtime_ns for p in kept} and "data_prep.sample" not in again
    assert (out / "ppo" / "finished.json").is_file() and (
        out / "report" / "answers.jsonl"
    ).is_file()


def test_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(
        c["outputs"] == [] and c["execution_count"] is None
        for c in cells
        if c["cell_type"] == "code"
    )
    assert "pip install -q -c /tmp/keep-torch.txt" in "".join("".join(c["source"]) for c in cells)
