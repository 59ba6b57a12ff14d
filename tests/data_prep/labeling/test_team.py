"""Names and passwords: hashed in a file, checked in the same time, told wrong without the line."""

import io
import stat

import pytest
from command_tools import stops

from data_prep.labeling import team
from data_prep.labeling.team import Team, set_password
from instruct.errors import UserError


@pytest.fixture
def path(tmp_path):
    set_password(tmp_path / "team.txt", "ada", "correct horse")
    set_password(tmp_path / "team.txt", "Łukasz", "páss wörd \0 x")
    return tmp_path / "team.txt"


def test_a_name_and_its_password_let_in_and_nothing_else_does(path):
    people = Team.read(path)
    assert people.names == ["ada", "Łukasz"]
    assert people.check("ada", "correct horse") and people.check("Łukasz", "páss wörd \0 x")
    wrong = [
        ("ada", ""), ("ada", "correct horse "), ("ada", "páss wörd \0 x"), ("eve", ""),
        ("", ""), ("ADA", "correct horse"), ("ada", "\ud800"), ("ada", "x" * 1_000_000),
    ]  # fmt: skip
    assert not any(people.check(name, password) for name, password in wrong)


def test_the_file_holds_no_password_and_is_closed_to_others(path):
    text = path.read_text()
    assert "horse" not in text and len(text.splitlines()) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_marked_reads_the_same(path, encoding):
    text = path.read_text(encoding="utf-8").replace("\n", "\r\n")
    path.write_bytes(text.encode(encoding))
    people = Team.read(path)
    assert people.names == ["ada", "Łukasz"] and people.check("ada", "correct horse")


def test_the_same_password_has_another_hash_each_time(path):
    before = path.read_text().splitlines()
    set_password(path, "ada", "correct horse")
    after = path.read_text().splitlines()
    assert before[0] != after[0] and before[1] == after[1]
    set_password(path, "ada", "another one")
    people = Team.read(path)
    assert not people.check("ada", "correct horse") and people.check("ada", "another one")


def test_a_name_that_nobody_has_takes_as_long(path, monkeypatch):
    people, asked = Team.read(path), []
    real = team._hash
    monkeypatch.setattr(team, "_hash", lambda *args: asked.append(1) or real(*args))
    people.check("ada", "x"), people.check("eve", "x")
    assert len(asked) == 2


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "names nobody"),
        ("# nobody yet\n\n", "names nobody"),
        ("ada:hunter2\n", "line 1: is not NAME:scrypt"),
        ("hunter2\n", "line 1: is not NAME:scrypt"),
        (":scrypt$00$00\n", "line 1: is not NAME"),
    ],
)
def test_another_form_is_refused_and_no_password_repeated(tmp_path, text, told):
    (tmp_path / "team.txt").write_text(text)
    with pytest.raises(UserError) as error:
        Team.read(tmp_path / "team.txt")
    assert told in str(error.value) and "hunter2" not in str(error.value)
    assert "python -m data_prep.labeling.team" in str(error.value)


def test_a_name_twice_no_file_and_no_text_are_told(path):
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match="line 3: ada is there twice"):
        Team.read(path)
    with pytest.raises(UserError, match="no such file"):
        Team.read(path.with_name("missing.txt"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        Team.read(path)


@pytest.mark.parametrize("name", ["", " ada", "a:b", "#ada", "a\nb", "a\0b", "a/b", "a\u202eb"])
def test_a_name_that_cannot_be_kept_is_refused(tmp_path, name):
    with pytest.raises(UserError):
        set_password(tmp_path / "team.txt", name, "correct horse")
    assert not (tmp_path / "team.txt").exists()


def test_the_command_reads_a_line_and_refuses_a_short_password(tmp_path, monkeypatch, capsys):
    path = tmp_path / "team.txt"
    flags = ["--passwords", str(path), "--name", "ada"]
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert "at least 8 characters" in stops(team.main, flags, capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    team.main(flags)
    assert Team.read(path).check("ada", "correct horse")
    assert "correct horse" not in capsys.readouterr().out


def test_remarks_stay_where_they_are(path):
    ada, lukasz = path.read_text().splitlines()
    path.write_text(f"# ours, 2026\n{ada}\n\n# left: {lukasz}\n")
    set_password(path, "ada", "another one")
    set_password(path, "eve", "correct horse")
    remark, changed, blank, left, new = path.read_text().splitlines()
    assert (remark, blank, left) == ("# ours, 2026", "", f"# left: {lukasz}")
    assert changed.startswith("ada:") and changed != ada and new.startswith("eve:")


def test_a_letter_is_the_same_however_it_was_typed(tmp_path):
    path, one, two = tmp_path / "team.txt", "José", "Jose\u0301"
    set_password(path, two, "pässword")
    set_password(path, one, "another pässword")
    people = Team.read(path)
    assert people.names == [one]
    assert people.check(two, "another pa\u0308ssword") and not people.check(one, "pässword")
    path.write_text(path.read_text() + path.read_text().replace(one, two))
    with pytest.raises(UserError, match="line 2: José is there twice"):
        Team.read(path)


def test_a_password_of_bytes_that_are_no_text_is_refused(tmp_path):
    # what a pipe in Latin-1 holds; it was kept as if it were "p?ssword"
    with pytest.raises(UserError, match="bytes that are no text"):
        set_password(tmp_path / "team.txt", "ada", "p\udce4ssword")
    assert not (tmp_path / "team.txt").exists()


def test_hashing_costs_what_owasp_asks_for():
    # password storage cheat sheet: N = 2^14, r = 8, p = 5; the paper's cut-off, B.1
    assert team.COST == {"n": 2**14, "r": 8, "p": 5} and team.SCREENING_CUTOFF == 0.75
