import io

import pytest

from refimpl.lab import progress, text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "-"),
        (0.123, "0.12 s"),
        (3.44, "3.4 s"),
        (59.97, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_durations_read_well(seconds, told):
    assert text.duration(seconds) == told


@pytest.mark.parametrize(
    ("n", "told"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (999_600, "1.0 MB"), (1_540_000, "1.5 MB"), (3e11, "300 GB")],
)
def test_sizes_read_well(n, told):
    assert text.memory(n) == told


def test_tables_align_and_leave_no_trailing_blanks():
    table = text.table(("a", "number"), [("long name", "1"), ("b", "22.5")], right=(1,))
    assert table.splitlines() == ["a          number", "---------  ------", "long name       1", "b            22.5"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_estimates_from_what_was_done_now(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Bar(4) as bar:
        bar.skip_to(2, "resumed")
        assert bar._bar.n - bar._bar.initial == 0
        bar.at(2.5, "learner", "loss 0.5")
        assert bar._bar.n - bar._bar.initial == 0.5
        bar.at(2.4)  # never backwards
        bar.at(9.0)  # never past the end
        assert bar._bar.n == 4
        bar.say("a line")
    assert "learner" in terminal.getvalue() and "left, loss 0.5" in terminal.getvalue()
    assert "a line\n" in terminal.getvalue()


def test_without_a_terminal_there_is_no_bar(capsys):
    with progress.Bar(2) as bar:
        bar.at(1, "what")
        bar.finished("one done")
    assert capsys.readouterr().err == "one done\n"
    with progress.Bar(2, show=False) as bar:
        bar.finished("one done")
    assert capsys.readouterr().err == ""
