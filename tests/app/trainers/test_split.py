"""Who trains and who is asked: nobody moves, and validation never trains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib.trainers.split import Scan, fold_of, hash_of, in_validation, make_folds, patient_of, split_scans

NAMES = st.text(min_size=1, max_size=8)
SCANS = st.lists(
    st.builds(Scan, case=NAMES, patient=st.sampled_from([f"p{i}" for i in range(12)]) | NAMES, labeled=st.booleans(),
              unedited=st.booleans()),
    unique_by=lambda scan: scan.case, max_size=25,
)  # fmt: skip
FEW = settings(max_examples=60, deadline=None)
PARTS = ("labeled", "unlabeled", "validation", "held_out")


def cases(scans) -> set[str]:
    return {scan.case for scan in scans}


def test_the_hash_is_the_same_everywhere():
    """By hand: sha256("validation\\0anna") begins with these 53 bits; another version must not move patients."""
    import hashlib

    bits = int(hashlib.sha256(b"validation\0anna").hexdigest()[:16], 16) >> 11
    assert hash_of("anna", "validation") == bits / 2**53
    assert in_validation("anna", 1.0) and not in_validation("anna", 0.0)


def test_about_the_fraction_is_in_validation():
    share = sum(in_validation(f"patient {i}", 0.2) for i in range(2000)) / 2000
    assert 0.17 < share < 0.23  # three standard deviations of a binomial


@FEW
@given(SCANS, st.floats(0, 1), st.booleans())
def test_every_scan_has_one_place(scans, fraction, unedited):
    split = split_scans(scans, fraction, unedited)
    placed = [scan.case for part in PARTS for scan in getattr(split, part)]
    assert sorted(placed) == sorted(scan.case for scan in scans)
    assert all(scan.labeled for scan in (*split.labeled, *split.validation))
    assert not any(scan.unedited for scan in split.validation)
    assert unedited or not any(scan.unedited for scan in split.labeled)


@FEW
@given(SCANS, SCANS, st.floats(0, 1), st.floats(0, 1), st.data())
def test_whoever_is_in_validation_stays_and_never_trains(first, later, fraction, larger, data):
    """More scans, new labels, edits of labels, another order, a larger fraction: no validation patient ever trains."""
    before = split_scans(first, fraction)
    known = {scan.case: scan.patient for scan in first}
    grown = [Scan(scan.case, known.get(scan.case, scan.patient), data.draw(st.booleans()), data.draw(st.booleans()))
             for scan in {**{s.case: s for s in first}, **{s.case: s for s in later}}.values()]
    after = split_scans(data.draw(st.permutations(grown)), max(fraction, larger), data.draw(st.booleans()))
    kept = {scan.patient for scan in (*before.validation, *before.held_out)}
    folds, _ = make_folds(after, data.draw(st.integers(0, 4)))
    for part in (after, *folds):
        assert kept.isdisjoint(scan.patient for scan in (*part.labeled, *part.unlabeled))
    assert {scan.patient for scan in (*after.validation, *after.held_out)}.isdisjoint(
        scan.patient for scan in (*after.labeled, *after.unlabeled)
    )


@FEW
@given(SCANS, st.integers(2, 5))
def test_a_fold_sees_nothing_of_its_patients(scans, count):
    split = split_scans(scans, 0.2)
    folds, salt = make_folds(split, count)
    asked = [case for fold in folds for case in cases(fold.predicted)]
    assert len(asked) == len(set(asked)), "no case is asked twice"
    for fold in folds:
        left_out = {scan.patient for scan in fold.predicted}
        assert fold.labeled and fold.predicted
        assert left_out.isdisjoint(scan.patient for scan in (*fold.labeled, *fold.unlabeled))
        assert cases((*fold.labeled, *fold.unlabeled)).isdisjoint(fold.excluded)
        assert cases(fold.predicted) <= fold.excluded
        assert {fold_of(patient, count, salt) for patient in left_out} == {fold.index}
        assert cases((*fold.labeled, *fold.unlabeled)) | fold.excluded == cases((*split.labeled, *split.unlabeled))
    if len({scan.patient for scan in split.labeled}) > 1:
        assert set(asked) == cases(split.labeled), "each labeled scan is asked in one fold"


def test_two_labeled_patients_are_enough_for_folds():
    """Whoever they are: where the first hash puts both into one fold, the next one is taken."""
    for i in range(40):
        split = split_scans([Scan("a", f"p{i}", True), Scan("b", f"q{i}", True), Scan("c", "r")], 0.0)
        folds, _ = make_folds(split, 2)
        assert sorted(case for fold in folds for case in cases(fold.predicted)) == ["a", "b"]


@pytest.mark.parametrize(("scans", "count"), [([Scan("a", "p", True), Scan("b", "p", True)], 2), ([], 2),
                                              ([Scan("a", "p", True), Scan("b", "q", True)], 0)])
def test_no_folds(scans, count):
    assert make_folds(split_scans(scans, 0.0), count) == ([], 0)


@pytest.mark.parametrize(
    ("info", "group_by", "patient"),
    [
        ({}, "", "MR_12_a"),
        ({"PatientID": "P7"}, "", "P7"),
        ({"PatientID": "UNK"}, "", "MR_12_a"),
        ({"PatientID": " "}, "PatientID", "MR_12_a"),
        ({"PatientID": "P7"}, r"_(\d+)_", "12"),
        ({}, r"^[^_]+", "MR"),
        ({}, r"(CT)|MR_(\d+)", "12"),
        ({}, r"nothing", "MR_12_a"),
    ],
)
def test_whom_a_scan_shows(info, group_by, patient):
    assert patient_of("MR_12_a", info, group_by) == patient


def test_three_validation_patients_make_folds_superfluous():
    scans = [Scan(f"{p}{i}", p, True) for p in "abc" for i in range(2)]
    assert not split_scans(scans, 1.0).needs_folds
    assert split_scans(scans[:4], 1.0).needs_folds
