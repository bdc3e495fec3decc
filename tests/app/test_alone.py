"""Two servers on one folder of scans, or in one workspace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lib.server.alone import only_server_of, only_server_on

from mnseg.errors import UserError

APP = Path(__file__).parents[2] / "monailabel_app"
HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import lib.server.alone
getattr(lib.server.alone, sys.argv[2])(lib.server.alone.Path(sys.argv[3]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("hold", "hint"), [
    (only_server_on, "Another server uses the scans in .*: stop it"),
    (only_server_of, "Another server uses the workspace .*: stop it, or, if that one's scans are others, name another"),
])
def test_the_second_is_refused_until_the_first_was_killed(tmp_path, hold, hint):
    command = [sys.executable, "-c", HOLD, str(APP), hold.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            (tmp_path / "link").symlink_to(tmp_path)
            with pytest.raises(UserError, match=hint):
                hold(tmp_path / "link")
        finally:
            other.kill()
    hold(tmp_path)
    hold(tmp_path)  # the same server, built again


def test_the_lock_of_the_scans_is_no_scan(tmp_path):
    pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")
    from lib.datastores.local import LocalScans

    only_server_on(tmp_path)
    assert LocalScans(tmp_path, auto_reload=False).list_images() == []


def test_where_nothing_can_be_written_the_way_out_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder with --conf workspace"):
        only_server_of(tmp_path / "file")
    with pytest.raises(UserError, match="name another folder with --conf workspace"):
        only_server_of(tmp_path / "file" / "deeper")
    with pytest.raises(UserError, match="copy the scans"):
        only_server_on(tmp_path / "nowhere")
