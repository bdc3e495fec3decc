"""Properties of the synthetic scans."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from mnseg.data.integrity import check_datalist
from mnseg.data.phantom import CLASS_NAMES, DEFAULT_SIZE, make_phantom, write_phantom_dataset
from mnseg.errors import UserError


@pytest.fixture(scope="module")
def cases():
    return [make_phantom(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return write_phantom_dataset(folder, 2, 3, 1, 2, size=(24, 24, 20), seed=5).parent


def test_types_shapes_and_values(cases):
    for image, label, spacing in cases:
        assert image.shape == label.shape == DEFAULT_SIZE
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert np.isfinite(image).all() and image.min() >= 0 and image.std() > 0
        assert image.max() < np.iinfo(np.int16).max  # what the files hold
        assert set(np.unique(label)) == set(range(len(CLASS_NAMES)))
        assert spacing[2] > spacing[0] == spacing[1] > 0


def test_equal_seeds_give_equal_voxels(cases):
    for seed, (image, label, spacing) in enumerate(cases[:3]):
        again = make_phantom(seed)
        assert again[0].tobytes() == image.tobytes() and again[1].tobytes() == label.tobytes()
        assert again[2] == spacing
    generator = np.random.default_rng(0)
    assert np.array_equal(make_phantom(generator)[0], cases[0][0])
    assert not np.array_equal(make_phantom(generator)[0], cases[0][0])


def test_no_two_cases_are_alike(cases):
    for i, (image, label, _) in enumerate(cases):
        for other_image, other_label, _ in cases[:i]:
            assert not np.array_equal(image, other_image)
            overlap = 2 * np.sum((label == other_label) & (label > 0)) / (np.sum(label > 0) + np.sum(other_label > 0))
            assert overlap < 0.85  # a copied mask would not do as a prediction


def test_label_borders_lie_on_image_borders(cases):
    """Intensities just inside and just outside of a structure differ more than a shifted mask's do."""
    aligned, shifted = [], []
    for image, label, _ in cases:
        for number in range(1, len(CLASS_NAMES)):
            mask = label == number
            aligned.append(_edge(image, mask))
            shifted.append(_edge(image, np.roll(mask, (4, -4, 3), (0, 1, 2))))
    assert np.mean(aligned) > 1.5 * np.mean(shifted)
    assert np.median(aligned) > 0.1


def _edge(image, mask):
    inside, around = image[mask], image[binary_dilation(mask, iterations=2) & ~mask]
    return abs(np.log(inside.mean() / around.mean()))


def test_contrast_differs_from_case_to_case(cases):
    """The classes cannot be told by intensity alone: their spread over cases is wider than their distance in some."""
    means = np.array([[image[label == k].mean() / np.median(image[label == 0]) for k in (1, 2)]
                      for image, label, _ in cases])
    assert means[:, 0].max() > means[:, 1].min()


def test_finer_grid_keeps_the_field_of_view():
    for size in (32, (16, 24, 20)):
        image, _, spacing = make_phantom(1, size)
        assert np.multiply(image.shape, spacing) == pytest.approx((120, 120, 128))


def test_files_hold_the_scans_and_masks_of_unlabeled_cases_are_hidden(dataset):
    datalist = json.loads((dataset / "datalist.json").read_text())
    assert datalist["class_names"] == list(CLASS_NAMES)
    assert [len(datalist[s]) for s in ("labeled", "unlabeled", "validation", "testing")] == [2, 3, 1, 2]
    for split in ("labeled", "validation", "testing"):
        assert all(set(item) == {"image", "label"} for item in datalist[split])
    for item in datalist["unlabeled"]:
        assert set(item) == {"image", "hidden_label"}
        assert item["hidden_label"].startswith("hidden_labels/")
    assert len(list((dataset / "labels").iterdir())) == 5
    assert not list(dataset.rglob(".*"))  # no temporary file is left


def test_files_are_what_make_phantom_draws(dataset):
    """Orientation in the file may differ; brought to RAS, voxels and spacing are those of the seed."""
    image, label, spacing = make_phantom([5, 3, 1], (24, 24, 20))
    scan = nib.as_closest_canonical(nib.load(dataset / "images" / "testing_001.nii.gz"))
    mask = nib.as_closest_canonical(nib.load(dataset / "labels" / "testing_001.nii.gz"))
    assert np.array_equal(scan.get_fdata(), image) and np.array_equal(mask.get_fdata(), label)
    assert scan.header.get_zooms() == pytest.approx(spacing)
    assert np.array_equal(scan.affine, mask.affine)


def test_the_check_finds_nothing_wrong(dataset):
    report = check_datalist(dataset / "datalist.json", check_hidden=True)
    assert not report.errors


def test_same_seed_same_files_and_counts_do_not_disturb_other_splits(dataset, tmp_path):
    write_phantom_dataset(tmp_path, 1, 0, 1, 1, size=(24, 24, 20), seed=5)
    names = ["images/labeled_000.nii.gz", "labels/validation_000.nii.gz", "images/testing_000.nii.gz"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (dataset / name).read_bytes()
    write_phantom_dataset(tmp_path / "other", 1, 0, 0, 0, size=(24, 24, 20), seed=6)
    assert (tmp_path / "other" / names[0]).read_bytes() != (dataset / names[0]).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"size": 8}, "size"),
        ({"size": (40, 40)}, "size"),
        ({"num_labeled": -1}, "num_labeled"),
        ({"num_labeled": 0, "num_unlabeled": 0, "num_validation": 0, "num_testing": 0}, "at least one"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, word):
    with pytest.raises(UserError, match=word):
        write_phantom_dataset(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        write_phantom_dataset(tmp_path / "out", 1, 0, 0, 0)
    assert (tmp_path / "out").read_text() == "mine"
