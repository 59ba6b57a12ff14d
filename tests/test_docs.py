"""Every flag that a page names exists: in a recipe, a data command or a benchmark."""

import re
from dataclasses import fields
from itertools import chain

import pytest
from conftest import REPO

from instruct.arguments import ModelConfig
from recipes import ppo, reward, sft

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "benchmarks" / "README.md"]
PAGES += sorted(DOCS.glob("*.md"))
RECIPES = (
    sft.ScriptArguments,
    sft.SFTConfig,
    reward.ScriptArguments,
    reward.RankedRewardConfig,
    ppo.ScriptArguments,
    ppo.SharedBasePPOConfig,
    ModelConfig,
)
# flags of accelerate launch and of other programs, and those that every parser adds
OTHERS = {"help", "config", "config_file", "num_processes", "machine_rank", "main_process_ip"}
OTHERS |= {"help_all", "cpu", "pid", "outfile", "model_args", "flavor", "timeout", "secrets"}


def flags_named(page) -> set[str]:
    return set(re.findall(r"--(\w+)", page.read_text()))


def flags_of_recipes() -> set[str]:
    return {field.name for kind in RECIPES for field in fields(kind)}


# where commands add flags
ROOMS = ("recipes", "data_prep", "benchmarks", "instruct/evaluation/tasks")


@pytest.fixture(scope="module")
def flags_that_exist() -> set[str]:
    known = flags_of_recipes()
    # the commands that use argparse: what they add to their parsers, in whatever function
    scripts = chain.from_iterable((REPO / room).rglob("*.py") for room in ROOMS)
    for script in scripts:
        known |= set(re.findall(r'\badd(?:_argument)?\(\s*"--(\w+)"', script.read_text()))
    return known


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_flags_are_real(path, flags_that_exist):
    assert flags_named(path) - flags_that_exist - OTHERS == set()


def test_troubleshooting_names_flags_of_the_recipes():
    named = flags_named(DOCS / "troubleshooting.md")
    assert len(named) > 20 and named - flags_of_recipes() - OTHERS == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_symptom_names_a_cure():
    text = (DOCS / "troubleshooting.md").read_text()
    for symptom in (
        "KL is negative",
        "Reward up, text worse",
        "never stop",
        "Out of memory",
        "NaN",
        "loss is 0",
        "It hangs",
    ):
        start = text.index(symptom)
        entry = text[start : text.find("\n**", start + 3)]
        assert "→" in entry and "--" in entry, symptom


def test_readme_has_a_line_for_every_file():
    tree = (REPO / "README.md").read_text().split("## Files", 1)[1]
    files = chain.from_iterable(
        (REPO / room).rglob("*.py") for room in ("recipes", "data_prep", "instruct")
    )
    names = {path.name for path in files} - {"__init__.py"}
    assert {name for name in names if not re.search(rf"(?<!\w){name}\b", tree)} == set()
