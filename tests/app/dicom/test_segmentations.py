"""Which segmentations become labels, which do not, and what is said of them."""

from __future__ import annotations

import contextlib

import numpy as np
import pydicom
import pytest
from dicom_bench import LABELS
from lib.datastores.pacs import PacsError, PacsRefusal
from lib.durable import read_json_lines
from lib.errors import RequestError


def test_a_drawn_one_becomes_a_label(bench):
    mask = bench.mask(bench.one)

    def edit(dataset):
        dataset.ContentCreatorName = "Doe^Jane"
        dataset.SeriesDescription = "by hand"

    uid = bench.draw(bench.one, mask, edit=edit)
    assert [entry["state"] for entry in bench.sync.now()] == ["taken"]
    assert np.array_equal(bench.label(bench.one), mask) and bench.saved == [bench.one]
    line = read_json_lines(bench.root / "work" / "labels.jsonl")[-1]
    assert line["author"] == "Doe Jane" and line["origin"]["uid"] == uid and line["origin"]["description"] == "by hand"
    info = bench.store.get_label_info(bench.one, "final")
    assert info["author"] == "Doe Jane" and info["origin"]["kind"] == "DICOM SEG" and info["seg"]["state"] == "not owed"


def test_it_is_taken_once_even_by_another_server_process(bench):
    bench.draw(bench.one, bench.mask(bench.one))
    bench.sync.now()
    fetched = list(bench.pacs.fetched)
    assert bench.sync.now() == []
    bench.open()
    assert bench.sync.now() == [] and bench.saved == []
    assert [uid for uid in bench.pacs.fetched if uid not in fetched] == []


def test_a_kill_between_label_and_journal_takes_it_no_second_time(bench, monkeypatch):
    uid = bench.draw(bench.one, bench.mask(bench.one))
    monkeypatch.setattr(bench.sync.journal, "record", lambda *args, **facts: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bench.sync.now()
    bench.open()
    bench.sync.now()
    assert bench.states[uid] == "ignored" and "equals the label" in bench.reason(uid) and bench.saved == []


def test_segments_go_by_names(bench):
    mask = bench.mask(bench.one)
    swapped = np.choose(mask, [0, 2, 1]).astype(np.uint8)
    bench.draw(bench.one, swapped, names=("Right_Organ", "LEFT  organ"))
    bench.sync.now()
    assert np.array_equal(bench.label(bench.one), mask)


def test_unknown_names_are_refused_with_those_expected(bench):
    uid = bench.draw(bench.one, (bench.mask(bench.one) == 1).astype(np.uint8), names=("Segment 1",))
    bench.sync.now()
    assert bench.states[uid] == "refused" and bench.store.get_labeled_images() == []
    assert "Segment 1" in bench.reason(uid) and "1 (left organ), 2 (right organ)" in bench.reason(uid)


def test_a_segment_that_nobody_painted_may_have_any_name(bench):
    mask = (bench.mask(bench.one) == 1).astype(np.uint8)

    def edit(dataset):
        more = pydicom.Dataset()
        more.SegmentNumber, more.SegmentLabel, more.SegmentAlgorithmType = 2, "Segment 2", "MANUAL"
        dataset.SegmentSequence.append(more)

    uid = bench.draw(bench.one, mask, names=("left organ",), edit=edit)
    bench.sync.now()
    assert bench.states[uid] == "taken" and np.array_equal(bench.label(bench.one), mask)


@pytest.mark.parametrize(("kinds", "state"), [
    (("MANUAL", "SEMIAUTOMATIC"), "taken"), (("SEMIAUTOMATIC", "SEMIAUTOMATIC"), "taken"),
    (("AUTOMATIC", "AUTOMATIC"), "ignored"), (("MANUAL", "AUTOMATIC"), "ignored"), (("", "MANUAL"), "ignored"),
])  # fmt: skip
def test_only_what_a_person_made_counts(bench, kinds, state):
    def edit(dataset):
        for segment, kind in zip(dataset.SegmentSequence, kinds, strict=True):
            segment.SegmentAlgorithmType = kind
        dataset.Manufacturer = "Other AI"

    uid = bench.draw(bench.one, bench.mask(bench.one), edit=edit)
    bench.sync.now()
    assert bench.states[uid] == state
    if state == "ignored":
        assert "Other AI" in bench.reason(uid) and bench.store.get_labeled_images() == []


@pytest.mark.parametrize("key", ["Manufacturer", "ManufacturerModelName", "SeriesDescription"])
def test_trusted_programs_count(bench, key):
    def edit(dataset):
        for segment in dataset.SegmentSequence:
            segment.SegmentAlgorithmType = "AUTOMATIC"
        setattr(dataset, key, "Good AI")

    bench.open(seg_sources=("good ai",))
    uid = bench.draw(bench.one, bench.mask(bench.one), edit=edit)
    bench.sync.now()
    assert bench.states[uid] == "taken"


def test_what_this_program_wrote_never_counts(bench):
    def edit(dataset):
        dataset.Manufacturer = "mnseg"

    bench.open(seg_sources=("mnseg",))
    uid = bench.draw(bench.one, bench.mask(bench.one), edit=edit)
    bench.sync.now()
    assert bench.states[uid] == "ours" and bench.store.get_labeled_images() == []


def test_over_a_final_label_a_person_decides(bench):
    ours, theirs = bench.mask(bench.one), bench.mask(bench.one, shift=2)
    bench.submit(bench.one, ours)
    uid = bench.draw(bench.one, theirs)
    bench.sync.now()
    assert bench.states[uid] == "pending" and "by anna" in bench.reason(uid)
    assert np.array_equal(bench.label(bench.one), ours)
    assert [entry["uid"] for entry in bench.sync.status()["pending"]] == [uid]
    bench.open()
    assert bench.sync.now() == [] and bench.states[uid] == "pending"
    bench.sync.imports.accept(uid, "berta")
    assert np.array_equal(bench.label(bench.one), theirs) and bench.states[uid] == "taken"
    assert "berta" in bench.reason(uid) and bench.saved == [bench.one]
    with pytest.raises(RequestError, match="waits for a decision"):
        bench.sync.imports.accept(uid, "berta")


def test_a_rejected_one_stays_out(bench):
    bench.submit(bench.one, bench.mask(bench.one))
    uid = bench.draw(bench.one, bench.mask(bench.one, shift=2))
    bench.sync.now()
    bench.sync.imports.reject(uid, "berta")
    bench.open()
    bench.sync.now()
    assert bench.states[uid] == "rejected" and np.array_equal(bench.label(bench.one), bench.mask(bench.one))


def test_of_two_new_ones_the_second_waits(bench):
    first = bench.draw(bench.one, bench.mask(bench.one), edit=_at("100000"))
    second = bench.draw(bench.one, bench.mask(bench.one, shift=1), edit=_at("110000"))
    bench.sync.now()
    assert sorted(bench.states[uid] for uid in (first, second)) == ["pending", "taken"]


def _at(time):
    def edit(dataset):
        dataset.SeriesTime = dataset.ContentTime = time

    return edit


def test_somebody_who_is_quicker_is_not_overwritten(bench, monkeypatch):
    """A label that arrives after the look at the datastore and before the SEG is stored."""
    uid = bench.draw(bench.one, bench.mask(bench.one, shift=1))
    nothing_new = bench.sync.imports._nothing_new

    def meanwhile(image, mask):
        answer = nothing_new(image, mask)
        monkeypatch.setattr(bench.store, "get_labeled_images", lambda *args: [])
        return answer

    monkeypatch.setattr(bench.sync.imports, "_nothing_new", meanwhile)
    bench.submit(bench.one, bench.mask(bench.one))
    take = bench.app.submissions.take

    def taken(*args, **kwargs):
        try:
            return take(*args, **kwargs)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(bench.app.submissions, "take", taken)
    bench.sync.now()
    assert bench.states[uid] == "pending" and np.array_equal(bench.label(bench.one), bench.mask(bench.one))
    assert bench.app.submissions.inbox.waiting() == []


def test_a_served_mask_that_comes_back_unchanged_is_no_label(bench):
    mask = bench.mask(bench.one)
    bench.app.provenance.served(bench.one, bench.file(bench.one, mask), "0007")
    same = bench.draw(bench.one, mask)
    bench.sync.now()
    assert bench.states[same] == "ignored" and "mnseg 0007" in bench.reason(same)
    changed = mask.copy()
    changed[4, 5, 6] = 0
    edited = bench.draw(bench.one, changed)
    bench.sync.now()
    assert bench.states[edited] == "taken"
    facts = bench.app.provenance.of(bench.one)
    assert facts["edited_voxels"] == 1 and facts["served"] == "0007" and not facts["unedited"]


def test_a_scan_that_comes_later_gets_its_label_then(bench):
    three = bench.pacs.add("c")
    bench.clock.now = 20
    uid = bench.draw(three, bench.mask(three))
    away = bench.root / "away"
    (bench.pacs.root / three).rename(away)
    bench.clock.now = 40
    bench.sync.now()
    assert uid not in bench.states and uid not in bench.pacs.fetched, "nothing of this server is in its study"
    away.rename(bench.pacs.root / three)
    bench.clock.now = 60
    bench.sync.now()
    assert bench.states[uid] == "taken" and bench.store.get_labeled_images() == [three]


def test_one_of_a_series_that_is_not_there_costs_nothing_until_the_scans_change(bench, monkeypatch):
    def of_another_series(dataset):
        dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"

    uid = bench.draw(bench.one, bench.mask(bench.one), edit=of_another_series)
    bench.sync.now(thorough=False)
    assert bench.states[uid] == "no scan" and bench.pacs.fetched.count(uid) == 1
    asked = []
    monkeypatch.setattr(bench.pacs, "instances", lambda series: asked.append(series.uid) or [uid])
    for _ in range(3):
        bench.sync.now(thorough=False)
    assert asked == []
    bench.pacs.add("d")
    bench.clock.now = 20
    bench.sync.now(thorough=False)
    assert len(asked) == 1 and bench.pacs.fetched.count(uid) == 1


def test_one_that_the_server_does_not_give_keeps_no_other_out(bench, monkeypatch, caplog):
    """Its file is broken there, say; it may be mended."""
    broken = bench.draw(bench.one, bench.mask(bench.one), edit=_at("100000"))
    fine = bench.draw(bench.two, bench.mask(bench.two), edit=_at("110000"))
    fetch, tried = bench.pacs.fetch, []

    def refusing(study, series, uid, path):
        tried.append(uid)
        if uid == broken:
            raise PacsRefusal("The DICOMweb server http://pacs refuses it (HTTPError: 500).")
        return fetch(study, series, uid, path)

    monkeypatch.setattr(bench.pacs, "fetch", refusing)
    for thorough in (True, False, True):
        bench.sync.now(thorough)
    assert bench.states == {fine: "taken"} and bench.sync.status()["fault"] == ""
    assert "HTTPError: 500" in bench.sync.status()["aside"][broken] and caplog.text.count("HTTPError: 500") == 1
    assert tried.count(broken) == 2, "not at every look"
    monkeypatch.undo()
    bench.sync.now()
    assert bench.states[broken] == "taken" and bench.sync.status()["aside"] == {}


@pytest.mark.parametrize("error", [PacsError("The DICOMweb server http://pacs does not answer (ReadTimeout)."),
                                   MemoryError(), ValueError("no SOPClassUID")])  # fmt: skip
def test_one_at_which_the_look_ends_is_passed_over_in_the_next(bench, monkeypatch, error):
    bad = bench.draw(bench.one, bench.mask(bench.one), edit=_at("100000"))
    fine = bench.draw(bench.two, bench.mask(bench.two), edit=_at("110000"))
    fetch = bench.pacs.fetch

    def failing(study, series, uid, path):
        if uid == bad:
            raise error
        return fetch(study, series, uid, path)

    monkeypatch.setattr(bench.pacs, "fetch", failing)
    for thorough in (True, False):
        with contextlib.suppress(PacsError):
            bench.sync.now(thorough)
    assert bench.states == {fine: "taken"} and bad in bench.sync.status()["aside"]
    monkeypatch.undo()
    bench.sync.now()
    assert bench.states[bad] == "taken"


@pytest.mark.parametrize("damage", ["size", "direction", "step"])
def test_damaged_geometry_keeps_no_other_out(bench, damage):
    def damaged(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        if damage == "size":
            shared.PixelMeasuresSequence[0].PixelSpacing = [0, 0]
        elif damage == "direction":
            shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 0, 0, 0, 0, 0]
        else:
            shared.PixelMeasuresSequence[0].SliceThickness = shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 1e-7
            position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
            dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [
                position[0] + 0.3, *position[1:]]

    uid = bench.draw(bench.one, bench.mask(bench.one), edit=damaged)
    fine = bench.draw(bench.two, bench.mask(bench.two))
    bench.sync.now()
    assert bench.states[uid] in ("refused", "unreadable") and bench.states[fine] == "taken"
    assert "/tmp" not in bench.reason(uid)


def test_one_that_cannot_be_read_is_told_once(bench, caplog):
    path = bench.seg(bench.one, bench.mask(bench.one))
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence
    dataset.save_as(path)
    uid = bench.pacs.send(path)
    bench.sync.now(), bench.sync.now()
    assert bench.states[uid] == "unreadable" and bench.pacs.fetched.count(uid) == 1
    assert caplog.text.count("cannot be read as DICOM SEG") == 1 and "/tmp" not in bench.reason(uid)


def test_one_of_another_patient_is_refused(bench):
    def of_somebody_else(dataset):
        dataset.PatientID = "somebody else"

    uid = bench.draw(bench.one, bench.mask(bench.one), edit=of_somebody_else)
    nameless = bench.draw(bench.two, bench.mask(bench.two), edit=lambda dataset: setattr(dataset, "PatientID", ""))
    bench.sync.now()
    assert bench.states[uid] == "refused" and bench.states[nameless] == "taken"
    assert "patient somebody else, but the series that it names is of patient of a" in bench.reason(uid)


def test_one_that_replaced_another_in_its_series_is_looked_at(bench):
    wrong = bench.draw(bench.one, bench.mask(bench.one), names=("kidney", "right organ"))
    bench.sync.now()
    (file,) = bench.pacs.root.rglob(f"{wrong}.dcm")
    dataset = pydicom.dcmread(file)
    dataset.SegmentSequence[0].SegmentLabel = LABELS[0]
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = corrected = pydicom.uid.generate_uid()
    file.unlink()
    dataset.save_as(file.with_name(f"{corrected}.dcm"))
    bench.sync.now(thorough=False)
    assert bench.states == {wrong: "refused"}, "not worth a request at every look"
    bench.sync.now()
    assert bench.states[corrected] == "taken"


def test_a_decision_on_one_that_was_deleted(bench):
    bench.submit(bench.one, bench.mask(bench.one))
    uid = bench.draw(bench.one, bench.mask(bench.one, shift=1))
    bench.sync.now()
    (file,) = bench.pacs.root.rglob(f"{uid}.dcm")
    file.unlink()
    with pytest.raises(RequestError, match="no longer in the DICOM server; reject it") as caught:
        bench.sync.imports.accept(uid, "anna")
    assert caught.value.status == 404 and bench.states[uid] == "pending"
    assert bench.sync.imports.reject(uid, "anna")["state"] == "rejected"


def test_a_server_that_does_not_answer_is_asked_again(bench):
    uid = bench.draw(bench.one, bench.mask(bench.one))
    bench.pacs.is_down = True
    with pytest.raises(RequestError):
        bench.sync.now()
    assert "does not answer" in bench.sync.status()["fault"] and bench.states == {}
    bench.pacs.is_down = False
    bench.sync.now()
    assert bench.states[uid] == "taken" and bench.sync.status()["fault"] == ""
