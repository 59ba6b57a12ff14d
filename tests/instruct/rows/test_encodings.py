"""Text files that flags name: read as they were written, or told in the flag's own name."""

import pytest

from instruct.errors import UserError
from instruct.rows.encodings import read_text

TEXT = "# Ours\n\nBe kind, señor – שלום\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_text_is_read_whatever_mark_it_begins_with(tmp_path, encoding, ending):
    file = tmp_path / "a.md"
    file.write_bytes(TEXT.replace("\n", ending).encode(encoding))
    assert read_text(file, "--flag") == TEXT


@pytest.mark.parametrize("content", ["señor".encode("cp1252"), b"ok \xff\xfe\xfd", b"\xff\xfea"])
def test_what_is_no_text_is_told_by_its_flag(tmp_path, content):
    file = tmp_path / "a.md"
    file.write_bytes(content)
    with pytest.raises(UserError, match="^--flag F: not UTF-8 text; write it anew as such$"):
        read_text(file, "--flag F")


def test_what_is_no_file_is_told_by_its_flag(tmp_path):
    with pytest.raises(UserError, match="^--flag F: no such file$"):
        read_text(tmp_path / "none", "--flag F")
    with pytest.raises(UserError, match="^--flag F: this is a folder, not a file$"):
        read_text(tmp_path, "--flag F")
