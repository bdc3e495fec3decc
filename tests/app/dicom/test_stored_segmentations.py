"""Labels and masks that are put into the DICOM server."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pydicom
import pytest
from dicom_bench import LABELS
from lib.datastores.pacs import PacsError, PacsRefusal
from lib.errors import RequestError

from mnseg.data.dicom_seg_write import EmptyMaskError


def stored(bench):
    return [pydicom.dcmread(bench.pacs.root / series.uid / f"{uid}.dcm")
            for series in bench.pacs.segmentations() for uid in bench.pacs.instances(series)]


def test_a_submitted_label_is_stored_once(bench):
    bench.submit(bench.one, bench.mask(bench.one), "Ann Müller")
    assert list(bench.store.owed()) == [bench.one]
    bench.sync.now(), bench.sync.now()
    (dataset,) = stored(bench)
    assert {segment.SegmentAlgorithmType for segment in dataset.SegmentSequence} == {"MANUAL"}
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == list(LABELS)
    assert str(dataset.ContentCreatorName) == "Ann Müller" and dataset.Manufacturer == "mnseg"
    assert "not for diagnosis" in dataset.ContentDescription
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == bench.one
    assert bench.states == {dataset.SOPInstanceUID: "ours"} and bench.store.owed() == {}


def test_what_it_says_of_a_corrected_mask(bench):
    mask = bench.mask(bench.one)
    bench.app.provenance.served(bench.one, bench.file(bench.one, mask), "0003")
    bench.submit(bench.one, mask)
    bench.submit(bench.two, bench.mask(bench.two))
    bench.sync.now()
    bench.submit(bench.one, bench.mask(bench.one, shift=1))
    bench.sync.now()
    kinds = sorted((segment.SegmentAlgorithmType, segment.get("SegmentAlgorithmName", ""))
                   for dataset in stored(bench) for segment in dataset.SegmentSequence[:1])
    assert kinds == [("AUTOMATIC", "mnseg 0003"), ("MANUAL", ""), ("SEMIAUTOMATIC", "mnseg 0003")]


def test_a_label_waits_for_the_server(bench):
    bench.submit(bench.one, bench.mask(bench.one))
    bench.pacs.is_down = True
    with pytest.raises(RequestError):
        bench.sync.now()
    bench.pacs.is_down = False
    bench.open()
    bench.sync.now()
    assert len(stored(bench)) == 1


def test_a_label_that_the_server_refuses_keeps_no_other_waiting(bench, monkeypatch, caplog):
    """Neither those that go out nor those that come in; it is tried again after pauses."""
    bench.submit(bench.one, bench.mask(bench.one))
    bench.submit(bench.two, bench.mask(bench.two))
    three = bench.pacs.add("c")
    bench.clock.now = 20
    drawn = bench.draw(three, bench.mask(three))
    store, tried, now = bench.pacs.store, [], SimpleNamespace(seconds=0.0)

    def refusing(path):
        image = pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID
        tried.append(image)
        if image == bench.one:
            raise PacsRefusal("http://pacs did not take the object (reason 272).")
        store(path)

    monkeypatch.setattr(bench.pacs, "store", refusing)
    bench.sync.exports.clock = lambda: now.seconds
    for now.seconds in (0, 30, 60, 90, 150, 179, 180, 300):
        bench.sync.now()
    assert tried.count(bench.one) == 3 and tried.count(bench.two) == 1, "at 0, 60 and 180 seconds"
    assert bench.states[drawn] == "taken" and list(bench.store.owed()) == [bench.one]
    status = bench.sync.status()
    assert status["refused"] == {bench.one: "http://pacs did not take the object (reason 272)."}
    assert status["fault"] == "" and caplog.text.count("reason 272") == 1
    lines = (bench.root / "work" / "segs.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 3, "an attempt that fails again is not noted again"
    monkeypatch.setattr(bench.pacs, "store", store)
    now.seconds = 1000
    bench.sync.now()
    assert bench.store.owed() == {} and bench.sync.status()["refused"] == {}


@pytest.mark.parametrize("error", [PacsError("The DICOMweb server http://pacs does not answer (ReadTimeout)."),
                                   TypeError("no such thing")])  # fmt: skip
def test_a_label_at_which_the_server_hangs_waits_alone(bench, monkeypatch, error):
    """The server answers otherwise, so it is not away."""
    first = min(bench.one, bench.two)
    for image in (bench.one, bench.two):
        bench.submit(image, bench.mask(image))
    store, order = bench.pacs.store, []

    def hanging(path):
        image = str(pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID)
        order.append(image)
        if image == order[0]:
            raise error
        store(path)

    monkeypatch.setattr(bench.pacs, "store", hanging)
    bench.sync.now(), bench.sync.now()
    assert first in order and len(order) == 2 and list(bench.store.owed()) == order[:1]
    assert bench.sync.status()["fault"] == "" and list(bench.sync.status()["refused"]) == order[:1]


def test_a_full_disk_makes_a_label_wait_and_one_that_cannot_be_a_seg_is_named(bench, monkeypatch):
    bench.submit(bench.one, bench.mask(bench.one))
    now = SimpleNamespace(seconds=0.0)
    bench.sync.exports.clock = lambda: now.seconds
    with monkeypatch.context() as patch:
        patch.setattr("mnseg.data.dicom_seg_write.write_dicom_seg",
                      lambda *args: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        bench.sync.now()
    assert "disk is full" in bench.sync.status()["refused"][bench.one] and list(bench.store.owed()) == [bench.one]
    now.seconds = 60
    bench.sync.now()
    assert len(stored(bench)) == 1 and bench.store.owed() == {}
    bench.submit(bench.two, bench.mask(bench.two))
    with monkeypatch.context() as patch:
        patch.setattr("mnseg.data.dicom_seg_write.write_dicom_seg",
                      lambda *args: (_ for _ in ()).throw(EmptyMaskError("empty")))
        bench.sync.now()
    assert "nothing in the mask" in bench.sync.status()["failed"][bench.two] and bench.store.owed() == {}


def test_a_kill_behind_storing_stores_no_second_one(bench, monkeypatch):
    bench.submit(bench.one, bench.mask(bench.one))
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "settle", lambda *args, **facts: (_ for _ in ()).throw(SystemError))
        with pytest.raises(SystemError):
            bench.sync.now()
    bench.open()
    bench.sync.now()
    assert len(stored(bench)) == 1 and bench.store.owed() == {}


def test_labels_from_a_folder_stay_here(bench):
    bench.submit(bench.one, bench.mask(bench.one), "imported")
    bench.sync.now()
    assert stored(bench) == [] and bench.store.owed() == {}


def test_a_mask_of_the_model_is_put_into_the_server(bench):
    mask = bench.mask(bench.one)

    def task(request):
        assert request["image_id"] == bench.one
        return str(bench.file(bench.one, mask)), {"model": "mnseg 0004", "version": "0004"}

    bench.app.infer_task = lambda name: task
    answer = bench.sync.exports.put_mask(bench.one)
    assert bench.sync.exports.put_mask(bench.one)["SOPInstanceUID"] == answer["SOPInstanceUID"]
    (dataset,) = stored(bench)
    assert {segment.SegmentAlgorithmType for segment in dataset.SegmentSequence} == {"AUTOMATIC"}
    assert dataset.SeriesDescription == "mnseg 0004 mask, not for diagnosis"
    assert dataset.StudyInstanceUID == answer["StudyInstanceUID"] and answer["StudyInstanceUID"] in answer["ohif"]
    bench.sync.now()
    assert bench.states == {dataset.SOPInstanceUID: "ours"} and bench.store.get_labeled_images() == []
    mask[:] = 0
    with pytest.raises(RequestError, match="nothing in the mask"):
        bench.sync.exports.put_mask(bench.one)
