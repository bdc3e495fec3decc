"""Damaged inputs end in a right volume or in one sentence: no other error, no crash, no hang, no wrong geometry."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from fuzz.import_seeds import import_mutations, import_seeds
from fuzz.json_edits import damaged_json
from fuzz.mutations import mutations
from fuzz.seeds import real_seeds, written_seeds
from fuzz.worker import verdicts
from mnseg.cli import main


def assert_no_defect(seeds, count) -> Counter:
    return judged(mutations(seeds, count))


def test_a_sample_of_damaged_volumes():
    counts = assert_no_defect(written_seeds(), 200)
    assert min(counts["accepted"], counts["refused"]) > 20  # neither everything nor nothing is refused


@pytest.mark.slow
def test_damaged_volumes(shared_dir_or_none):
    seeds = written_seeds() + (real_seeds(shared_dir_or_none / "data") if shared_dir_or_none else [])
    counts = assert_no_defect(seeds, 2400)
    assert counts.total() >= 2400


def judged(mutations) -> Counter:
    counts, defects = Counter(), []
    for verdict in verdicts(mutations):
        counts[verdict.outcome] += 1
        if verdict.outcome == "defect":
            defects.append(f"{verdict.mutation}\n    {verdict.text[-1500:]}")
    print(dict(counts))
    assert not defects, f"{len(defects)} of {sum(counts.values())}:\n" + "\n".join(defects)
    return counts


@pytest.fixture
def shared_dir_or_none(request):
    try:
        return request.getfixturevalue("shared_dir")
    except pytest.skip.Exception:
        return None


@pytest.mark.parametrize("count", [28, pytest.param(600, marks=pytest.mark.slow)])
def test_damaged_data_sets_to_import(count):
    counts = judged(import_mutations(import_seeds(), count))
    assert min(counts["accepted"], counts["refused"]) > count // 10


@pytest.fixture
def datalist(tmp_path):
    """A sound datalist, all of its keys used."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        nib.save(nib.Nifti1Image(rng.normal(size=(6, 5, 4)).astype(np.float32), np.diag([1, 1, 2, 1.0])),
                 tmp_path / f"{name}.nii")
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    nib.save(nib.Nifti1Image(label, np.diag([1, 1, 2, 1.0])), tmp_path / "label.nii")
    return {
        "class_names": ["background", "liver", "spleen"],
        "labeled": [{"image": "a.nii", "label": "label.nii", "patient": "p1", "ignored": ["spleen"], "modality": "MR"}],
        "unlabeled": [{"image": "b.nii", "hidden_label": "label.nii", "case": "b1"}],
        "validation": [{"image": "c.nii", "label": "label.nii"}], "testing": [{"image": "d.nii", "label": "label.nii"}],
    }  # fmt: skip


def assert_one_sentence(argv, capfd, names, what) -> int:
    """Exit code 0 or 1; an error says what it is about, without a traceback."""
    capfd.readouterr()
    code = main([str(argument) for argument in argv])
    captured = capfd.readouterr()
    assert code in (0, 1) and "Traceback" not in captured.err, f"{what}: exit {code}\n{captured.err[-2000:]}"
    if code:
        sentences = [line for line in captured.err.splitlines() if re.match(r"mnseg: |error: ", line)]
        assert sentences and any(name in captured.err for name in names), f"{what}: {captured.err[-2000:]}"
    return code


@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_datalists(tmp_path, capfd, datalist, count):
    path = tmp_path / "datalist.json"
    codes = Counter()
    for what, text in damaged_json(datalist, count):
        path.write_bytes(text)
        names = ("datalist", ".nii", "labeled/", "validation/", "testing/")
        codes[assert_one_sentence(["check", path, "--jobs", 1], capfd, names, what)] += 1
    print(dict(codes))
    assert codes[1] > count // 4
    path.write_text(json.dumps(datalist))
    assert main(["check", str(path)]) == 0


def test_the_commands_say_one_sentence(tmp_path, capfd):
    """Inputs that cannot crash or hang ITK, since they are read in this process: NIfTI and DICOM SEG."""
    seeds = [seed for seed in written_seeds() if seed.format in ("nifti", "seg")]
    codes = Counter()
    for number, mutation in enumerate(mutations(seeds, 60)):
        root = tmp_path / str(number)
        path = mutation.write(root)
        if mutation.format == "seg":
            argv = ["seg-to-nifti", "--images", root / "scans", "--segs", root / "segs", "-o", root / "out"]
        else:
            (root / "datalist.json").write_text(json.dumps({"labeled": [], "unlabeled": [], "validation": [],
                                                            "testing": [str(path)]}))
            argv = ["check", root / "datalist.json", "--jobs", 1]
        codes[assert_one_sentence(argv, capfd, [path.name, str(root)], mutation.name)] += 1
        shutil.rmtree(root)
    assert min(codes[0], codes[1]) > 5
