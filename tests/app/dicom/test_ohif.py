"""OHIF's scripts on their way to the browser."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.server.ohif import MENDED, _installed, _scripts, mended, ohif_routes  # noqa: E402

EXPORT, PANEL = MENDED


def text(*faults):
    return "\n".join(["before();", *faults, "behind();"])


def test_the_installed_ohif_has_the_faults():
    """When this fails, MONAI Label brings another OHIF: look whether it still exports mirrored."""
    found = _scripts(_installed())
    assert len(found) == 2
    for path in found:
        assert mended(path.read_text()) != path.read_text()
    assert {route.path for route in ohif_routes().routes} == {f"/ohif/{path.name}" for path in found}


def test_a_script_is_mended_in_all_places_or_in_none():
    faults = [fault for _, fault, _ in EXPORT[1]]
    whole = mended(text(*faults))
    assert "segImages.sort(" in whole and "getActiveDataSource()[0]" in whole
    assert whole.index("segImages.sort(") > whole.index("const segImages")
    for left in (faults[:1], faults[1:], [*faults, faults[0]], []):
        assert mended(text(*left)) == text(*left)


def test_another_ohif_is_served_as_it_is(tmp_path, caplog):
    (tmp_path / "app.js").write_text(text())
    (tmp_path / "two.js").write_text(text(*(fault for _, fault, _ in EXPORT[1][:1])))
    assert _scripts(tmp_path) == [] and caplog.text.count("served as it is") == 2


def test_slices_are_put_in_the_order_of_their_places(tmp_path):
    """The inserted lines, run by a real engine, on a stack along each direction."""
    import shutil
    import subprocess

    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the end-to-end tests run the lines in Chromium")
    script = """
const esm = {metaData: {get: (_, id) => ({ImageOrientationPatient: ORIENTATION, ImagePositionPatient: [0, -id, id]})}};
const segImages = [3, 1, 2].map(id => ({referencedImageId: id}));
BODY
console.log(segImages.map(image => image.referencedImageId).join(''));
"""
    body = EXPORT[1][0][2]
    for orientation, order in (("[1,0,0,0,1,0]", "321"), ("['1','0','0','0','-1','0']", "123"),
                               ("[1,0,0,0,0,-1]", "123")):
        code = script.replace("BODY", body).replace("ORIENTATION", orientation)
        answer = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == order
