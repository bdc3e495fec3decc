"""Reading history.jsonl, whole and damaged."""

import pytest

from mnseg.errors import UserError
from mnseg.reports.history import read_history, series


def write(folder, *lines):
    (folder / "history.jsonl").write_text("\n".join(lines))


def test_no_file_is_an_empty_history(tmp_path):
    assert read_history(tmp_path) == []


def test_epochs_come_in_order_and_the_later_line_counts(tmp_path):
    write(tmp_path, '{"epoch": 2, "x": 1}', '{"epoch": 1, "x": 5}', "", '{"epoch": 2, "x": 3}')
    assert read_history(tmp_path) == [{"epoch": 1, "x": 5}, {"epoch": 2, "x": 3}]


@pytest.mark.parametrize("tail", ['{"epoch": 2, "lo', '{"epo', "{}", "12"])
def test_a_cut_off_last_line_is_dropped(tmp_path, tail):
    write(tmp_path, '{"epoch": 1}', tail)
    assert read_history(tmp_path) == [{"epoch": 1}]


def test_damage_in_the_middle_names_the_line(tmp_path):
    write(tmp_path, '{"epoch": 1}', '{"epoch"', '{"epoch": 3}')
    with pytest.raises(UserError, match="line 2"):
        read_history(tmp_path)


def test_series_skips_what_was_not_measured():
    history = [{"epoch": 1, "d": 0.5}, {"epoch": 2}, {"epoch": 3, "d": float("nan")}, {"epoch": 4, "d": 1}]
    assert series(history, "d") == ([1, 4], [0.5, 1.0])
