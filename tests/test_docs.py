"""Every flag that docs/troubleshooting.md recommends exists in a recipe."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from test_configs import PARSERS

DOCS = Path(__file__).parent.parent / "docs"
# flags of accelerate launch, of other programs, and of the scripts that use argparse
OTHERS = {"help", "num_processes", "machine_rank", "main_process_ip", "cpu", "pid"}


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_flags_are_real(path):
    known = {
        field.name for classes in PARSERS.values() for kind in classes for field in fields(kind)
    }
    named = set(re.findall(r"--(\w+)", path.read_text()))
    assert len(named) > 20 and named - known - OTHERS == set()


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
