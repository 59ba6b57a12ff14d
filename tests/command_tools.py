"""What every command does on a mistake of the user's."""

import pytest


def stops(main, argv, capsys) -> str:
    """The one sentence that a wrong call prints; exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err
