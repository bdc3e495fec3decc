"""Files that survive a kill: whole lines, whole JSON, one writer at a time."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from lib.durable import append_json_line, as_json, durable_json, read_json_lines, utc


def test_json_is_readable_by_any_parser(tmp_path):
    content = {"nan": float("nan"), "inf": [float("inf")], "set": {"b", "a"}, "numpy": np.float32(0.5),
               "array": np.arange(2), "path": tmp_path, 3: "key"}
    file = durable_json(tmp_path / "deep" / "x.json", content)
    assert json.loads(file.read_text()) == {"nan": None, "inf": [None], "set": ["a", "b"], "numpy": 0.5,
                                            "array": [0, 1], "path": str(tmp_path), "3": "key"}
    assert [path.name for path in file.parent.iterdir()] == ["x.json"]


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    file = durable_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        durable_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


@pytest.mark.parametrize("torn", [b'{"n": 2', b'{"n": 2}', b"\xff\xfe", b"[1, 2]", b"[" * 100_000])
def test_a_torn_line_costs_no_other_line(tmp_path, torn):
    file = tmp_path / "lines.jsonl"
    append_json_line(file, {"n": 1})
    with open(file, "ab") as stream:
        stream.write(torn)
    append_json_line(file, {"n": 3})
    numbers = [line["n"] for line in read_json_lines(file)]
    assert numbers == ([1, 2, 3] if torn == b'{"n": 2}' else [1, 3])


def test_eight_threads_lose_no_line_and_no_file(tmp_path):
    def work(name):
        for number in range(20):
            append_json_line(tmp_path / "lines.jsonl", {"name": name, "number": number})
            durable_json(tmp_path / "state.json", {"text": "x" * 5000, "name": name})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = {(line["name"], line["number"]) for line in read_json_lines(tmp_path / "lines.jsonl")}
    assert lines == {(name, number) for name in range(8) for number in range(20)}
    assert len(json.loads((tmp_path / "state.json").read_text())["text"]) == 5000


def test_small_facts():
    assert utc(0) == "1970-01-01T00:00:00+00:00"
    assert as_json((1, (2.5, None))) == [1, [2.5, None]]
    assert read_json_lines("/nowhere/at/all.jsonl") == []
