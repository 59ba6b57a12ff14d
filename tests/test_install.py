"""What `make` puts into its environment: the demo's needs for the demo, all for the tests."""

import shutil
import subprocess
import tomllib

import pytest
from conftest import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


@pytest.fixture()
def steps_of(tmp_path):
    """`make -n TARGET` in a clone that has no environment yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-newest.txt"):
        shutil.copy(REPO / name, tmp_path)

    def steps(target: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", target]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    return steps


def named(requirements: list[str]) -> set[str]:
    return {r.split("[")[0].split(">")[0].split("=")[0] for r in requirements}


def test_who_trains_installs_no_test_tools_and_who_tests_has_all():
    extras = PROJECT["optional-dependencies"]
    assert not named(PROJECT["dependencies"]) & {"pytest", "gguf", "pyspark", "gradio"}
    assert "gguf" in named(extras["demo"]) and "pytest" in named(extras["dev"])
    assert not named(extras["demo"]) & {"pyspark", "pytest"}


@pytest.mark.parametrize("target", ["demo", "install"])
def test_the_demo_installs_its_own_extra_alone(steps_of, target):
    steps = steps_of(target)
    assert "'.[demo]'" in steps and "[dev]" not in steps and ".venv/demo" in steps


def test_the_tests_environment_is_the_demos_and_more(steps_of):
    steps = steps_of("imports")
    assert steps.index("'.[demo]'") < steps.index("'.[dev]'")
    newest = steps_of(".venv-newest/ready")
    assert "'.[dev]'" in newest and "constraints-newest.txt" in newest and ".venv/" not in newest
