"""Scans of a DICOM server: listed from there, fetched once, labels kept here."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_phantoms import OBLIQUE, ball
from lib.datastores.pacs import PacsError
from lib.errors import RequestError
from lib.trainers.datalist import final_label, gather, known_scans

from mnseg.data.volume_io import open_volume
from mnseg.errors import UserError


def test_a_scan_is_a_file_on_the_grid_of_its_series(fresh):
    image = nib.load(fresh.store.get_image_uri(fresh.one))
    series = open_volume(fresh.pacs.root / fresh.one)
    assert np.array_equal(image.dataobj, ball("a")[0]) and image.get_data_dtype() == np.int16
    assert np.allclose(image.affine, series.affine, atol=1e-4)
    assert np.allclose(image.get_qform(), image.affine, atol=1e-4)
    # Rows along (0.8, 0.6, 0), columns downwards; LPS becomes RAS.
    assert np.allclose(image.affine[:3, 0], [-0.8, -0.6, 0], atol=1e-5)
    assert np.allclose(image.affine[:3, 1], [0, 0, -1], atol=1e-5)
    assert np.allclose(image.affine[:3, 3], [20, 30, 40], atol=1e-4)


def test_nothing_is_fetched_before_it_is_asked_for_and_then_once(fresh):
    assert set(fresh.store.list_images()) == {fresh.one, fresh.two}
    assert fresh.store.get_image_info(fresh.one)["PatientID"] == "patient of a"
    assert fresh.store.json()["objects"].keys() == {fresh.one, fresh.two} and fresh.pacs.fetched == []
    readers = [threading.Thread(target=fresh.store.get_image_uri, args=(fresh.one,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert fresh.pacs.fetched == [fresh.one]
    fresh.open()
    assert fresh.store.get_image_uri(fresh.one) and fresh.pacs.fetched == [fresh.one]


def test_a_label_that_was_put_beside_the_copies_is_in_the_index(fresh):
    fresh.store.get_image_uri(fresh.one)
    (fresh.store.folder / "labels" / "final" / f"{fresh.one}.nii.gz").write_bytes(b"label")
    fresh.store.refresh()
    index = json.loads((fresh.store.folder / "datastore_v2.json").read_text())
    assert index["objects"][fresh.one]["labels"].keys() == {"final"}


def test_the_list_is_asked_for_every_ten_seconds_at_most(fresh):
    fresh.store.list_images(), fresh.store.status(), fresh.store.get_unlabeled_images()
    assert fresh.pacs.asked == 1
    new = fresh.pacs.add("c")
    assert new not in fresh.store.list_images()
    fresh.clock.now = 10
    assert new in fresh.store.list_images() and fresh.pacs.asked == 2


def test_a_server_that_does_not_answer_takes_nothing_away(fresh):
    fresh.submit(fresh.one, fresh.mask(fresh.one))
    fresh.pacs.is_down, fresh.clock.now = True, 100
    assert set(fresh.store.list_images()) == {fresh.one, fresh.two} and "does not answer" in fresh.store.unreachable
    assert fresh.store.get_labeled_images() == [fresh.one]
    with pytest.raises(PacsError):
        fresh.store.get_image_uri(fresh.two)
    fresh.open()
    assert fresh.store.get_labeled_images() == [fresh.one] and fresh.store.get_unlabeled_images() == [fresh.two]
    fresh.pacs.is_down, fresh.clock.now = False, 200
    assert fresh.store.get_image_uri(fresh.two) and fresh.store.unreachable == ""


def test_nobody_waits_for_a_server_that_hangs(fresh, monkeypatch):
    fresh.store.list_images()
    go_on = threading.Event()
    monkeypatch.setattr("lib.datastores.dicomweb.PATIENCE", 0.05)
    monkeypatch.setattr(fresh.pacs, "series", lambda wanted: go_on.wait(20) and [])
    fresh.clock.now = 20
    for _ in range(3):
        assert set(fresh.store.list_images()) == {fresh.one, fresh.two}
    go_on.set()
    while fresh.store.list_images():
        pass


def test_without_any_list_the_answer_says_why(tmp_path, fresh):
    from lib.datastores.dicomweb import DicomScans

    fresh.pacs.is_down = True
    with pytest.raises(PacsError, match="does not answer") as caught:
        DicomScans(fresh.pacs, tmp_path / "other", {"Modality": "MR"}).list_images()
    assert caught.value.status == 503


def test_a_series_that_is_no_volume_is_left_out_until_it_has_other_files(bench):
    voxels, _ = ball("d")
    broken = bench.pacs.add_voxels("d", voxels)
    gap = sorted((bench.pacs.root / broken).iterdir(), key=lambda path: int(_number(path)))[7]
    content = gap.read_bytes()
    gap.unlink()
    with pytest.raises(RequestError, match="cannot be used") as caught:
        bench.store.get_image_uri(broken)
    assert caught.value.status == 422 and str(bench.root) not in caught.value.sentence
    assert broken not in bench.store.list_images() and broken in bench.store.status()["unusable"]
    bench.open()
    assert broken not in bench.store.list_images()
    gap.write_bytes(content)
    bench.clock.now = 50
    assert broken in bench.store.list_images()
    assert np.array_equal(nib.load(bench.store.get_image_uri(broken)).dataobj, voxels)


def _number(path):
    return pydicom.dcmread(path).InstanceNumber


def test_a_series_that_grew_is_fetched_anew(bench):
    voxels, _ = ball("e")
    growing = bench.pacs.add_voxels("e", voxels)
    last = max((bench.pacs.root / growing).iterdir(), key=lambda path: int(_number(path)))
    content = last.read_bytes()
    last.unlink()
    assert nib.load(bench.store.get_image_uri(growing)).shape == (24, 24, 23)
    last.write_bytes(content)
    bench.clock.now = 20
    assert nib.load(bench.store.get_image_uri(growing)).shape == (24, 24, 24)


def _sent_anew(bench, uid):
    """The same series with as many files, which have other UIDs and other voxels."""
    for number, file in enumerate(sorted((bench.pacs.root / uid).iterdir())):
        dataset = pydicom.dcmread(file)
        pixels = np.roll(dataset.pixel_array, 8, axis=0)
        dataset.PixelData = pixels.tobytes()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        file.unlink()
        dataset.save_as(file.with_name(f"1.2.3.{number}.dcm"))


def test_a_series_that_was_sent_anew_is_fetched_anew_and_its_label_waits(bench):
    before = np.asarray(nib.load(bench.store.get_image_uri(bench.one)).dataobj)
    bench.submit(bench.one, bench.mask(bench.one))
    folder = bench.root / "labels"

    def left_out():
        scans = known_scans(bench.store, "PatientID", ())
        return gather(bench.store, scans, folder, 0.2, 0).left_out

    assert left_out() == {}
    _sent_anew(bench, bench.one)
    bench.clock.now = 20
    after = np.asarray(nib.load(bench.store.get_image_uri(bench.one)).dataobj)
    assert after.shape == before.shape and (after != before).any()
    assert bench.one in bench.store.get_labeled_images(), "the label is still there"
    assert "was replaced after its label was saved" in left_out()[bench.one]
    bench.submit(bench.one, bench.mask(bench.one))
    assert left_out() == {}


@pytest.mark.parametrize("is_old", [False, True])
def test_a_disk_that_is_full_in_the_midst_leaves_no_old_voxels_under_new_files(bench, monkeypatch, is_old):
    before = np.asarray(nib.load(bench.store.get_image_uri(bench.one)).dataobj)
    if is_old:  # a copy of an older version
        note = bench.store.folder / f"{bench.one}.json"
        content = {key: json.loads(note.read_text())[key] for key in ("files", "fetched")}
        note.unlink()  # it is linked to the template's
        note.write_text(json.dumps(content))
    _sent_anew(bench, bench.one)
    bench.clock.now = 20
    with monkeypatch.context() as patch:
        patch.setattr("lib.datastores.copies._as_nifti",
                      lambda folder: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            bench.store.get_image_uri(bench.one)
    bench.open()
    after = np.asarray(nib.load(bench.store.get_image_uri(bench.one)).dataobj)
    assert (after != before).any()
    fetched = len(bench.pacs.fetched)
    assert bench.store.get_image_uri(bench.one) and len(bench.pacs.fetched) == fetched


def test_slices_that_come_later_are_fetched_from_a_server_that_counts_no_files(bench, monkeypatch):
    voxels, _ = ball("f")
    growing = bench.pacs.add_voxels("f", voxels)
    every = bench.pacs._all
    monkeypatch.setattr(bench.pacs, "_all", lambda: (replace(series, files=None) for series in every()))
    last = max((bench.pacs.root / growing).iterdir(), key=lambda path: int(_number(path)))
    content = last.read_bytes()
    last.unlink()
    bench.clock.now = 20
    assert nib.load(bench.store.get_image_uri(growing)).shape == (24, 24, 23)
    last.write_bytes(content)
    bench.clock.now = 40
    assert nib.load(bench.store.get_image_uri(growing)).shape == (24, 24, 24)


def test_files_that_a_server_names_and_does_not_send_are_not_asked_for_again_and_again(bench, monkeypatch):
    instances = bench.pacs.instances
    monkeypatch.setattr(bench.pacs, "instances", lambda series: [*instances(series), "1.2.3"])
    fetched = len(bench.pacs.fetched)
    for bench.clock.now in (20, 40, 60):
        assert bench.store.get_image_uri(bench.one)
    assert len(bench.pacs.fetched) == fetched + 1


def test_a_faulty_series_that_is_sent_anew_with_as_many_files_is_tried_again(bench):
    voxels, _ = ball("d")
    broken = bench.pacs.add_voxels("d", voxels)
    folder = bench.pacs.root / broken
    last = max(folder.iterdir(), key=lambda path: int(_number(path)))
    dataset = pydicom.dcmread(last)
    good = list(dataset.ImagePositionPatient)
    dataset.ImagePositionPatient = [good[0], good[1], good[2] + 500]
    dataset.save_as(last)
    bench.clock.now = 20
    with pytest.raises(RequestError, match="cannot be used"):
        bench.store.get_image_uri(broken)
    bench.open()
    bench.clock.now = 40
    assert broken not in bench.store.list_images()
    last.unlink()
    dataset.ImagePositionPatient = good
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    dataset.save_as(folder / "1.2.3.99.dcm")
    bench.clock.now = 60
    assert broken in bench.store.list_images()
    assert np.array_equal(nib.load(bench.store.get_image_uri(broken)).dataobj, voxels)


def test_whether_files_were_replaced_is_not_asked_of_a_server_that_is_away(bench, monkeypatch):
    uid = bench.one
    bench.pacs.is_down = True
    bench.clock.now = 20
    bench.store.list_images()
    monkeypatch.setattr(bench.pacs, "instances", lambda series: pytest.fail("asked"))
    assert bench.store.get_image_uri(uid)


def test_a_server_that_tells_of_some_files_alone_changes_nothing(bench, monkeypatch):
    monkeypatch.setattr(bench.pacs, "instances", lambda series: ["1.2.3"])
    bench.clock.now = 20
    fetched = len(bench.pacs.fetched)
    assert bench.store.get_image_uri(bench.one) and len(bench.pacs.fetched) == fetched


def test_the_server_may_move_to_another_address(tmp_path, monkeypatch, bench):
    """UIDs are unique in the world, so labels do not depend on the name of a host."""
    import lib.datastores.pacs
    from lib.server.start import dicom_scans
    from monailabel.config import settings

    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(bench.root / "cache"))
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {"Modality": "MR"})
    monkeypatch.setattr(lib.datastores.pacs, "connect", lambda url: bench.pacs)
    bench.submit(bench.one, bench.mask(bench.one))
    for url in ("http://127.0.0.1:8042/dicom-web", "https://pacs.hospital/dicom-web/"):
        assert dicom_scans(SimpleNamespace(studies=url)).get_labeled_images() == [bench.one]
    older = tmp_path / "older"
    older.mkdir()
    (bench.root / "cache").rename(older / "0123456789ab")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(older))
    with pytest.raises(UserError, match="0123456789ab holds labels of an older version"):
        dicom_scans(SimpleNamespace(studies="http://pacs"))


def test_training_finds_patients_images_and_labels(bench):
    bench.submit(bench.one, bench.mask(bench.one))
    scans = {scan.case: scan for scan in known_scans(bench.store, "", ())}
    assert scans[bench.one].patient == "patient of a" and scans[bench.one].labeled and not scans[bench.two].labeled
    assert np.array_equal(nib.load(final_label(bench.store, bench.one)).dataobj, bench.mask(bench.one))


def test_scans_are_neither_added_nor_removed_here(bench, tmp_path):
    for change in (lambda: bench.store.add_image("x", "x.nii.gz", {}), lambda: bench.store.remove_image(bench.one)):
        with pytest.raises(RequestError, match="DICOMweb server"):
            change()


def test_an_unknown_image_has_no_file(bench):
    assert bench.store.get_image_uri("1.2.3") == "" and bench.store.get_image_uri("../elsewhere/x") == ""
    with pytest.raises(RequestError, match="no series"):
        bench.store.series_folder("1.2.3")


def test_half_a_copy_of_a_killed_server_is_removed(bench):
    (bench.root / "cache" / f".{bench.one}.abc").mkdir(parents=True)
    bench.open()
    assert not (bench.root / "cache" / f".{bench.one}.abc").exists()


def test_a_broken_list_is_asked_for_anew(bench):
    bench.store.list_images()
    (bench.root / "cache" / "series.json").write_text(json.dumps([{"uid": 3}]))
    bench.open()
    assert set(bench.store.list_images()) == {bench.one, bench.two}


def test_oblique_labels_come_back_where_they_were(bench):
    """Through a SEG and back, on a series whose axes are not those of the patient."""
    assert bench.store.get_image_uri(bench.one) and OBLIQUE[1]
    mask = bench.mask(bench.one)
    bench.draw(bench.one, mask)
    bench.sync.now()
    assert np.array_equal(bench.label(bench.one), mask)
