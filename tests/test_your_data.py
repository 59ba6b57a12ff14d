"""docs/your-data.md as printed: its files, then its commands in its order, on a tiny model.

Two things differ from what a person types: the value of `BASE`, the page's one variable, and
`--max_steps 2` behind each training command.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_tools import stops
from conftest import REPO, TOPICS, make_tokenizer, save_model

from data_prep import comparisons, demonstrations, prompts
from recipes import evaluate, ppo, reward, sft

PAGE = (REPO / "docs" / "your-data.md").read_text()
CONFIGS = sorted((REPO / "recipes" / "configs" / "yours").glob("*.yaml"))
# a base's own template, unlike any of this repo's
TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant: ' }}{% endif %}"
)
COMMANDS = {
    "data_prep.prompts": prompts.main,
    "data_prep.demonstrations": demonstrations.main,
    "data_prep.comparisons": comparisons.main,
    "recipes/sft.py": sft.cli,
    "recipes/reward.py": reward.cli,
    "recipes/ppo.py": ppo.cli,
    "recipes/evaluate.py": evaluate.main,
}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)


def printed() -> list[str]:
    """The page's commands, each on one line."""
    return "".join(blocks("bash")).replace("\\\n", " ").splitlines()


def name_of(command: str) -> str | None:
    return next((name for name in COMMANDS if name in command), None)


def write_files(folder: Path) -> None:
    """The page's three files, each with more rows of the same columns."""
    (table,), (answers, pairs) = blocks("csv"), blocks("jsonl")
    with (folder / "questions.csv").open("w", newline="") as out:
        out.write(table)
        rows = csv.writer(out)
        rows.writerows([f"What is {TOPICS[i % 12]} number {i}?", f"user {i}"] for i in range(60))
    told = [
        [{"role": "user", "content": f"Tell me about {TOPICS[i % 12]} {i}."},
         {"role": "assistant", "content": f"I like {TOPICS[i % 12]}."}]
        for i in range(28)
    ]  # fmt: skip
    lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in told)
    (folder / "demonstrations.jsonl").write_text(answers + lines)
    rows = [
        {"prompt": f"What of {TOPICS[i % 12]} {i}?", "chosen": "I love it!", "rejected": "No."}
        for i in range(28)
    ]
    (folder / "preferences.jsonl").write_text(pairs + "".join(json.dumps(r) + "\n" for r in rows))


def folder_of_a_clone(folder: Path) -> Path:
    """A folder with the repo's rooms in it, so that nothing is written to the repo itself."""
    for room in ("recipes", "data_prep", "instruct"):
        (folder / room).symlink_to(REPO / room)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """outputs/yours, by the page."""
    here = folder_of_a_clone(tmp_path_factory.mktemp("clone"))
    write_files(here)
    base = save_model(here / "tiny", tokenizer=make_tokenizer(TEMPLATE))
    lines = ["set -e"]
    for line in printed():
        line = re.sub(r"^BASE=.*", f"BASE={base}", line)
        lines.append(line + (" --max_steps 2" if line.startswith("accelerate launch") else ""))
    assert sum(line.startswith("BASE=") for line in lines) == 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=here,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return here / "outputs" / "yours"


def test_the_chain_ends_in_a_report_of_every_step(run):
    assert (run / "report" / "report.html").is_file()
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["data"]["in"] == 62
    assert set(report["win_rate"]) == {"sft_vs_base", "ppo_vs_base", "ppo_vs_sft"}
    assert report["reward"]["n_pairs"] > 0 and report["sft"]["eval_loss_after"] is not None
    assert len(report["ppo"]["steps"]) >= 1
    # the judge that nothing was trained on is one
    independent = {name: judge["independent"] for name, judge in report["judges"].items()}
    assert independent == {"preferences": False, "likelihood": True}


@pytest.mark.parametrize("where", ["sft", "sft/merged", "reward", "ppo"])
def test_the_bases_own_chat_template_is_kept(run, where):
    assert (run / where / "chat_template.jinja").read_text() == TEMPLATE


def test_every_command_is_on_the_page_once_and_every_folder_is_made_before_it_is_read():
    assert [name_of(line) for line in printed()] == [None, *COMMANDS]
    made = set()
    for line in printed()[1:]:
        config = re.search(r"--config (\S+)", line)
        words = shlex.split(line)
        if config:
            words += [
                f"--{k}={v}" for k, v in yaml.safe_load((REPO / config[1]).read_text()).items()
            ]
        folders = re.findall(r"outputs/yours/\w+", " ".join(words))
        out = re.search(r"--output_dir[ =](outputs/yours/\w+)", " ".join(words))[1]
        assert set(folders) - {out} <= made, line
        made.add(out)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_no_template_of_ours(path):
    assert "chat_template_path" not in yaml.safe_load(path.read_text())


def said_by(name: str, base: str, capsys) -> str:
    """The one sentence that a command of the page ends with, as printed but for the base."""
    line = next(line for line in printed() if name_of(line) == name).replace("$BASE", base)
    words = shlex.split(line)
    said = stops(COMMANDS[name], words[words.index(name) + 1 :], capsys)
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "name, file",
    [
        ("data_prep.prompts", "questions.csv"),
        ("data_prep.demonstrations", "demonstrations.jsonl"),
        ("data_prep.comparisons", "preferences.jsonl"),
    ],
)
def test_a_file_that_is_not_there_is_told(name, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said_by(name, "none", capsys) == f"error: {file}: no such file or folder"


@pytest.mark.parametrize(
    "name, left_out",
    [
        ("recipes/sft.py", "demonstrations"),
        ("recipes/reward.py", "sft"),
        ("recipes/reward.py", "comparisons"),
        ("recipes/ppo.py", "prompts"),
        ("recipes/ppo.py", "sft"),
        ("recipes/ppo.py", "reward"),
        ("recipes/evaluate.py", "prompts"),
        ("recipes/evaluate.py", "reward"),
        ("recipes/evaluate.py", "ppo"),
    ],
)
def test_a_step_left_out_is_named_by_its_folder(name, left_out, run, tmp_path, monkeypatch, capsys):
    """All other folders are there, but for what the command writes itself."""
    monkeypatch.chdir(folder_of_a_clone(tmp_path))
    here = Path("outputs/yours")
    here.mkdir(parents=True)
    own = {"recipes/evaluate.py": "report"}.get(name, Path(name).stem)
    for folder in run.iterdir():
        if folder.is_dir() and folder.name not in (left_out, own):
            shutil.copytree(folder, here / folder.name)
    said = said_by(name, str(run.parents[1] / "tiny"), capsys)
    assert said.startswith("error: ") and f"outputs/yours/{left_out}" in said
