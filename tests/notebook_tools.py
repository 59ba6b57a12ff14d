"""notebooks/colab.ipynb as its tests play it: its own cells, on a machine that looks like Colab.

What is not here is a stub in its place: Colab's `google.colab`, IPython's `display`, pip, a GPU.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPO

NOTEBOOK = REPO / "notebooks" / "colab.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
# what is in a cell, to play up to it
RUN, PLACE, INSTALL, MACHINE = "def run(", "def clone(", "def why_no_lora(", "def step("
# what the recipes are, for a clone
ROOMS = ("recipes", "data_prep", "instruct", "accelerate_configs", "notebooks")
FILES = ("pyproject.toml", "README.md", "LICENSE")

# In the place of pip: notes what it is told, and takes away what it shall.
PIP = """
import json, pathlib, shutil, sys
here, words = pathlib.Path(__file__).parents[1], sys.argv[1:]
kept = words[words.index("--constraint") + 1] if "--constraint" in words else None
kept = kept and pathlib.Path(kept).read_text()
with (here / "pip.jsonl").open("a") as file:
    file.write(json.dumps({"words": words, "constraint": kept}) + "\\n")
if "uninstall" in words:
    for folder in here.glob(words[-1] + "*"):
        shutil.rmtree(folder)
"""


class Stubs:
    """A folder of modules that every Python started from the notebook finds first."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "pip").mkdir(parents=True)
        # without this, the real one comes first
        (folder / "pip" / "__init__.py").touch()
        (folder / "pip" / "__main__.py").write_text(PIP)

    def add_old_torchao(self) -> None:
        (self.folder / "torchao").mkdir()
        (self.folder / "torchao" / "__init__.py").touch()
        info = self.folder / "torchao-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.1.0\n")

    def told_pip(self) -> list[dict]:
        """What pip was told: `words`, and what was in its constraint file."""
        noted = self.folder / "pip.jsonl"
        lines = noted.read_text().splitlines() if noted.is_file() else []
        return [json.loads(line) for line in lines]


class Colab:
    """`google.colab`: Drive is mounted where it is said, unless `refuses`."""

    def __init__(self, patch: pytest.MonkeyPatch, refuses: str | None = None, is_empty=False):
        self.mounted: list[str] = []
        self.refuses, self.is_empty = refuses, is_empty
        module, drive = ModuleType("google.colab"), ModuleType("google.colab.drive")
        module.drive, drive.mount = drive, self.mount
        patch.setitem(sys.modules, "google.colab", module)
        patch.setitem(sys.modules, "google.colab.drive", drive)

    def mount(self, where: str) -> None:
        self.mounted.append(where)
        if self.refuses:
            raise RuntimeError(self.refuses)
        if not self.is_empty:
            Path(where, "MyDrive").mkdir(parents=True, exist_ok=True)


class Player:
    """Runs the notebook's cells one after the other, in one scope, as a kernel does.

    Attributes:
        scope: what the cells have defined.
        printed: what each of them printed.
        shown: what IPython was given to display.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, **settings):
        self.scope: dict = {"__name__": "__main__"}
        self.printed: list[str] = []
        self.shown: list[str] = []
        display = ModuleType("IPython.display")
        display.HTML, display.display = str, self.shown.append
        patch.setitem(sys.modules, "IPython.display", display)
        patch.setenv("NOTEBOOK_SETTINGS", json.dumps(settings))
        # as nobody has it set: the notebook sets it for its commands
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        patch.chdir(folder)

    def play(self, until: str | None = None, after: dict[str, Callable] | None = None) -> dict:
        """Plays on, to the end or to the cell with the text `until`; returns the scope.

        Args:
            after: {text: what is called, with the scope, after the cell with that text}.
        """
        for source in CODE[len(self.printed) :]:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                try:
                    exec(compile(source, "cell", "exec"), self.scope)
                finally:
                    self.printed.append(out.getvalue())
            for text, call in (after or {}).items():
                if text in source:
                    call(self.scope)
            if until and until in source:
                break
        return self.scope


def nobody_asked(text: str) -> str:
    raise AssertionError(f"the notebook asks where it need not: {text}")


def bare_copy(folder: Path) -> str:
    """The address of a bare repository with this working tree's files in one commit."""
    tree, bare = folder / "tree", folder / "instruct.git"
    tree.mkdir(parents=True)
    for room in ROOMS:
        unwanted = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(REPO / room, tree / room, ignore=unwanted)
    for name in FILES:
        shutil.copy(REPO / name, tree)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *words], cwd=tree, check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", tree, bare], check=True)
    return bare.as_uri()
