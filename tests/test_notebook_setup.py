"""notebooks/colab.ipynb to its first step: what it asks, clones, mounts, installs and launches."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import REPO
from notebook_tools import INSTALL, MACHINE, PLACE, Colab, Player, Stubs, bare_copy, nobody_asked


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return bare_copy(tmp_path_factory.mktemp("repository"))


################
# The repository, and Drive
################


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Plays an empty machine's notebook through the cell that finds the repository."""

    def play(typed=(), **settings) -> SimpleNamespace:
        answers = iter(typed)

        def answer(text):
            said = next(answers, EOFError())
            if isinstance(said, BaseException):
                raise said
            return said

        monkeypatch.setattr("builtins.input", answer)
        player = Player(monkeypatch, tmp_path, **settings)
        try:
            player.play(until=PLACE)
        except Exception as error:
            assert type(error).__name__ == "Stop", error
            return SimpleNamespace(stopped=str(error), printed=player.printed[-1], **player.scope)
        return SimpleNamespace(stopped=None, printed=player.printed[-1], **player.scope)

    return play


@pytest.fixture
def repository_of(tmp_path, monkeypatch):
    """What the notebook makes of what was typed."""
    player = Player(monkeypatch, REPO, output_dir=str(tmp_path))
    return player.play(until=PLACE)["repository_of"]


GITHUB = "https://github.com/somebody/recipes"
OWN_PAGE = "blob/main/notebooks/colab.ipynb"


@pytest.mark.parametrize(
    "typed, address",
    [
        (f" {GITHUB}.git\n", f"{GITHUB}.git"),
        (f"{GITHUB}/{OWN_PAGE}", GITHUB),
        (f"https://colab.research.google.com/github/somebody/recipes/{OWN_PAGE}", GITHUB),
        (f"https://example.org/group/recipes/-/{OWN_PAGE}", "https://example.org/group/recipes"),
        ("git@example.org:somebody/recipes.git", "git@example.org:somebody/recipes.git"),
    ],
)
def test_an_address_is_taken_as_people_have_it(repository_of, typed, address):
    assert repository_of(typed) == address


@pytest.mark.parametrize("typed", ["", "my recipes", "None", "--upload-pack=x", "https://a b"])
def test_what_is_no_address_is_told(repository_of, typed):
    with pytest.raises(Exception, match='no address of a git repository.*"repository"') as told:
        repository_of(typed)
    assert type(told.value).__name__ == "Stop" and "\n" not in str(told.value)


def test_it_asks_until_it_is_an_address_and_clones(machine, address, tmp_path):
    done = machine(["recipes", address], drive=None)
    assert done.stopped is None and "is no address" in done.printed
    assert Path.cwd() == tmp_path / "instruct-recipes" and Path("recipes/ppo.py").is_file()
    assert done.OUT == Path("outputs/colab").absolute()


def test_a_folder_is_cloned_too(machine, address):
    assert machine(repository=address.removeprefix("file://")).stopped is None


@pytest.mark.parametrize("nobody", [EOFError(), NotImplementedError("no raw_input")])
def test_where_nobody_can_answer_it_names_the_setting(machine, nobody):
    stopped = machine([nobody]).stopped
    assert '"repository"' in stopped and "not known" in stopped and "\n" not in stopped


def test_a_clone_that_fails_is_one_sentence_and_leaves_nothing(machine, tmp_path):
    stopped = machine(repository=(tmp_path / "nothing").as_uri()).stopped
    assert "could not be cloned (fatal: " in stopped and '"repository"' in stopped
    assert "\n" not in stopped and not (tmp_path / "instruct-recipes").exists()


def test_another_repository_is_not_taken(machine, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", other], check=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    commit = ["git", *who, "commit", "--quiet", "--allow-empty", "--message", "none"]
    subprocess.run(commit, cwd=other, check=True)
    assert "holds other files" in machine(repository=other.as_uri()).stopped


def test_half_a_clone_is_not_taken_for_a_whole_one(machine, address, tmp_path):
    half = tmp_path / "instruct-recipes.part" / "recipes"
    half.mkdir(parents=True)
    (half / "demo.sh").touch()
    assert machine(repository=address).stopped is None
    assert Path("recipes/ppo.py").is_file() and not half.exists()


def test_a_folder_of_that_name_that_is_no_copy_is_told(machine, address, tmp_path):
    (tmp_path / "instruct-recipes" / ".git").mkdir(parents=True)
    assert "is no whole copy" in machine(repository=address).stopped


@pytest.mark.parametrize("where", ["", "notebooks"])
def test_in_a_checkout_nothing_is_asked_or_cloned(monkeypatch, where, tmp_path):
    monkeypatch.setattr("builtins.input", nobody_asked)
    player = Player(monkeypatch, REPO / where, output_dir=str(tmp_path))
    player.play(until=PLACE)
    assert Path.cwd() == REPO and "$ git" not in "".join(player.printed)


def test_run_again_it_uses_the_clone_from_before(machine, address):
    assert machine([address]).stopped is None
    again = machine()
    assert again.stopped is None and "$ git" not in again.printed


def test_drive_keeps_the_results(machine, address, tmp_path, monkeypatch):
    colab = Colab(monkeypatch)
    done = machine(repository=address, drive=str(tmp_path / "drive"))
    assert colab.mounted == [str(tmp_path / "drive")]
    assert done.OUT == tmp_path / "drive/MyDrive/instruct-recipes" and done.OUT.is_dir()
    assert str(done.OUT) in done.printed


def test_drive_is_on_where_nothing_is_set(machine, address, monkeypatch):
    # elsewhere than in a test that would be written to
    colab = Colab(monkeypatch, refuses="a test")
    assert machine(repository=address).stopped and colab.mounted == ["/content/drive"]


@pytest.mark.parametrize(
    "state, why",
    [({"refuses": "credential propagation"}, "credential"), ({"is_empty": True}, "no MyDrive")],
)
def test_drive_that_is_not_mounted_is_never_written_to(machine, tmp_path, monkeypatch, state, why):
    Colab(monkeypatch, **state)
    stopped = machine(drive=str(tmp_path / "drive")).stopped
    assert why in stopped and '"drive" to None' in stopped and "\n" not in stopped
    assert not (tmp_path / "drive").exists()


def test_drive_that_is_not_wanted_is_left_alone(machine, address, monkeypatch, tmp_path):
    colab = Colab(monkeypatch)
    done = machine(repository=address, drive=None)
    assert colab.mounted == [] and done.OUT == tmp_path / "instruct-recipes/outputs/colab"


################
# Install, and the steps
################


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Plays the notebook in a checkout to its installation; `said`: what peft says, in turn."""

    def play(*said: str, in_colab: bool) -> SimpleNamespace:
        stubs = Stubs(tmp_path / "stubs")
        monkeypatch.setenv("PYTHONPATH", str(stubs.folder))
        if in_colab:
            Colab(monkeypatch)
        answers, real = list(said), subprocess.run

        def asked(words, **options):
            if "get_peft_model" not in str(words[-1]):
                return real(words, **options)
            why = answers.pop(0)
            return SimpleNamespace(returncode=int(bool(why)), stdout="", stderr=f"Traceback\n{why}")

        monkeypatch.setattr(subprocess, "run", asked)
        player = Player(monkeypatch, REPO, drive=None, output_dir=str(tmp_path / "out"))
        stopped = None
        try:
            player.play(until=INSTALL)
        except Exception as error:
            assert type(error).__name__ == "Stop", error
            stopped = str(error)
        assert answers == []
        told = stubs.told_pip()
        kept = [one["constraint"] for one in told if one["words"][0] == "install"]
        return SimpleNamespace(pip=[one["words"] for one in told], kept=kept, stopped=stopped)

    return play


OLD = "ImportError: Found an incompatible version of torchao. Found version 0.10.0"


def test_a_torchao_that_peft_takes_stays(install):
    done = install("", in_colab=True)
    assert [words[0] for words in done.pip] == ["install"] and done.stopped is None
    assert done.kept == [f"torch=={metadata.version('torch')}\n"]


def test_a_torchao_that_peft_refuses_goes(install):
    done = install(OLD, "", in_colab=True)
    assert [words[0] for words in done.pip] == ["install", "uninstall"] and done.stopped is None
    assert done.pip[1][-1] == "torchao" and "--yes" in done.pip[1]


def test_what_else_peft_says_is_told(install):
    done = install("RuntimeError: something else", in_colab=True)
    assert len(done.pip) == 1 and "something else" in done.stopped


def test_torchao_that_does_not_go_is_told(install):
    done = install(OLD, OLD, in_colab=True)
    assert len(done.pip) == 2 and "incompatible version of torchao" in done.stopped


@pytest.mark.parametrize("why", ["", OLD])
def test_somebodys_own_environment_is_left_alone(install, why):
    done = install(why, in_colab=False)
    assert done.pip == [] and (done.stopped is None) == (why == "")


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """Plays the notebook in a checkout to its first step, where torch names this GPU, or none."""

    def play(gpu: str, **settings) -> dict:
        player = Player(monkeypatch, REPO, output_dir=str(tmp_path / "out"), **settings)
        found = SimpleNamespace(returncode=0, stdout=f"{gpu}\n", stderr="")
        monkeypatch.setattr(subprocess, "run", lambda *words, **options: found)
        return player.play(until=MACHINE)

    return play


@pytest.mark.parametrize(
    "gpu, file, configs", [("Tesla T4", "one_gpu", "colab-t4"), ("", "cpu", "demo")]
)
def test_the_machine_decides_how_steps_are_launched(looked, gpu, file, configs):
    scope = looked(gpu)
    assert scope["CONFIGS"] == f"recipes/configs/{configs}" and Path(scope["CONFIGS"]).is_dir()
    python, m, module, *words = scope["LAUNCH"]
    assert (python, m, module) == (sys.executable, "-m", "accelerate.commands.launch")
    launched = launch_command_parser().parse_args([*words, "recipes/sft.py", "--config", "x"])
    launched, _, _ = _validate_launch_command(launched)
    assert launched.config_file == f"accelerate_configs/{file}.yaml"
    assert launched.use_cpu == (not gpu) and launched.num_processes == 1 and launched.quiet
    assert launched.training_script_args == ["--config", "x"]


@pytest.fixture
def steps(looked) -> dict:
    return looked("", more_flags={"x": ["--y"]})


def test_a_step_is_run_once_and_its_seconds_are_kept(steps):
    out, ran = steps["OUT"], []
    steps["run"] = lambda *words: (ran.append(words), (out / "result").touch())
    for _ in range(2):
        with redirect_stdout(io.StringIO()) as printed:
            steps["step"]("x", "result", "python", "words", 3)
    assert ran == [("python", "words", "3", "--y")]
    assert printed.getvalue() == "x: there from before\n"
    assert (out / "seconds.tsv").read_text() == "x\t0\n"


def test_a_step_of_other_settings_is_not_taken(steps):
    steps["run"] = lambda *words: (steps["OUT"] / "result").touch()
    steps["step"]("x", "result", "python", "one")
    with pytest.raises(steps["Stop"], match='other settings.*"output_dir"'):
        steps["step"]("x", "result", "python", "another")


def test_a_step_that_fails_is_run_again(steps):
    def fails(*words):
        raise steps["Stop"]("it failed")

    steps["run"] = fails
    with pytest.raises(steps["Stop"]):
        steps["step"]("x", "result", "python")
    assert not (steps["OUT"] / "steps.json").exists()
    steps["run"] = lambda *words: (steps["OUT"] / "result").touch()
    steps["step"]("x", "result", "python")
    assert json.loads((steps["OUT"] / "steps.json").read_text()) == {"x": ["--y"]}
