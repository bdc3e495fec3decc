"""Segmentations in the DICOM server whose geometry is wrong, or another than the scan's."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_bench import LABELS
from lib.labels.seg_grid import _step


def test_faulty_ones_are_refused_with_a_reason(bench):
    def overlapping(dataset):
        frames = dataset.PerFrameFunctionalGroupsSequence
        other = next(f for f in frames if f.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2)
        first = next(f for f in frames if f.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1)
        first.PlanePositionSequence = other.PlanePositionSequence
        dataset.PixelData = b"\xff" * len(dataset.PixelData)

    def unreferenced(dataset):
        del dataset.ReferencedSeriesSequence

    def elsewhere(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0].ImagePositionPatient
            frame.PlanePositionSequence[0].ImagePositionPatient = [position[0] + 500, *position[1:]]

    found = {}
    for edit in (overlapping, unreferenced, elsewhere):
        found[edit.__name__] = bench.draw(bench.one, bench.mask(bench.one), edit=edit)
    bench.sync.now()
    assert {bench.states[uid] for uid in found.values()} == {"refused"}
    assert "overlap" in bench.reason(found["overlapping"])
    assert "which series" in bench.reason(found["unreferenced"])
    assert "beyond the scan" in bench.reason(found["elsewhere"])


def test_another_grid_is_resampled(bench):
    """Drawn on voxels of half the size along the rows: each voxel of the scan gets what lies at its center."""
    two = bench.store.get_image_uri(bench.two)
    affine, mask = nib.load(two).affine, (bench.mask(bench.two) == 1).astype(np.uint8)

    def finer(dataset):
        size = int(dataset.Columns)
        bits = pydicom.pixel_data_handlers.numpy_handler.unpack_bits(dataset.PixelData)
        frames = bits[: int(dataset.NumberOfFrames) * size * size].reshape(-1, size, size)
        doubled = np.repeat(frames, 2, axis=2)
        dataset.Columns = 2 * size
        dataset.PixelData = np.packbits(doubled.ravel(), bitorder="little").tobytes()
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = [measures.PixelSpacing[0], measures.PixelSpacing[1] / 2]
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0].ImagePositionPatient
            frame.PlanePositionSequence[0].ImagePositionPatient = [position[0] - 0.25, *position[1:]]

    uid = bench.draw(bench.two, mask, names=LABELS[:1], edit=finer)
    bench.sync.now()
    assert bench.states[uid] == "taken", bench.reason(uid)
    assert np.array_equal(bench.label(bench.two), mask)
    assert np.allclose(nib.load(bench.store.get_label_uri(bench.two, "final")).affine, affine)


def test_slices_between_that_were_not_drawn_stay_empty_on_another_grid(bench):
    """Viewers leave empty frames out; the step is what the file declares, not the smallest gap between those left."""
    two = bench.store.get_image_uri(bench.two)
    mask = np.zeros(nib.load(two).shape, np.uint8)
    for index in (5, 8, 14):
        mask[6:12, 5:15, index] = 1

    def moved(dataset):
        """Without empty frames, and a fifth of a voxel aside: more than what counts as the scan's grid."""
        size, frames = int(dataset.Columns) * int(dataset.Rows), list(dataset.PerFrameFunctionalGroupsSequence)
        bits = pydicom.pixel_data_handlers.numpy_handler.unpack_bits(dataset.PixelData)
        drawn = bits[: len(frames) * size].reshape(-1, size)
        kept = np.flatnonzero(drawn.any(axis=1))
        assert len(kept) == 3
        dataset.PixelData = np.packbits(drawn[kept].ravel(), bitorder="little").tobytes()
        dataset.NumberOfFrames = len(kept)
        dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence([frames[index] for index in kept])
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0].ImagePositionPatient
            frame.PlanePositionSequence[0].ImagePositionPatient = [position[0] + 0.2, *position[1:]]

    uid = bench.draw(bench.two, mask, names=LABELS[:1], edit=moved)
    bench.sync.now()
    assert bench.states[uid] == "taken", bench.reason(uid)
    assert np.array_equal(bench.label(bench.two), mask)


@pytest.mark.parametrize(("levels", "declared", "step"), [
    ([0, 6, 12], 2.0, 2.0),
    ([0, 6, 12], 0.0, 6.0),  # not declared
    ([0, 6, 12], 4.0, 6.0),  # what is declared cannot be
    ([0, 3, 5], 0.99, 1.0),  # rounded in the file
    ([0, 1, 2], 5.0, 1.0),  # thick slices that overlap
    ([7], 2.5, 2.5),
    ([7], 0.0, 0.0),
])
def test_the_step_between_slices(levels, declared, step):
    assert _step(np.array(levels, float), declared) == pytest.approx(step)
