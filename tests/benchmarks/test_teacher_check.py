"""teacher_check.py: the three kinds of pseudo-labels, and hidden labels that no loss can read."""

from __future__ import annotations

import json

import pytest
import torch
from teacher_check import VARIANTS, collate_with_truth, main, pseudo_labels, summarize

from one_thread import one_thread

_one_thread = pytest.fixture(one_thread)


@pytest.fixture
def pseudo() -> torch.Tensor:
    return torch.rand(3, 4, 2, 2, 2).softmax(dim=1)


def test_truth_is_one_hot_of_the_hidden_label(pseudo):
    truth = torch.randint(0, 4, (3, 1, 2, 2, 2), dtype=torch.uint8)
    result = pseudo_labels("truth", pseudo, truth)
    assert result.shape == pseudo.shape and result.dtype == pseudo.dtype
    assert torch.equal(result.argmax(1, keepdim=True), truth.long())
    assert torch.equal(result.sum(1), torch.ones(3, 2, 2, 2))


def test_shuffled_gives_every_patch_another_ones_mask(pseudo):
    result = pseudo_labels("shuffled", pseudo, torch.zeros(3, 1, 2, 2, 2))
    assert not any(torch.equal(a, b) for a, b in zip(result, pseudo, strict=True))
    assert torch.equal(result.sort(dim=0).values, pseudo.sort(dim=0).values)
    assert torch.equal(pseudo_labels("teacher", pseudo, torch.zeros(3, 1, 2, 2, 2)), pseudo)


def test_hidden_labels_stay_out_of_the_labeled_part():
    def item(value: int, **more) -> dict:
        label = torch.full((1, 2, 2, 2), value, dtype=torch.uint8)
        return {"image": torch.full((1, 2, 2, 2), float(value)), "label": label, "case": str(value), **more}

    batch = collate_with_truth([item(1), item(2, hidden=True), item(3, hidden=True)])
    assert batch["image"].flatten(1)[:, 0].tolist() == [1, 2, 3]
    assert batch["label"].unique().tolist() == [1]
    assert batch["truth"].flatten(1)[:, 0].tolist() == [2, 3]
    assert collate_with_truth([item(1)])["truth"] is None


@pytest.mark.parametrize(
    ("ends", "passed"), [((0.9, 0.8, 0.7), True), ((0.8, 0.9, 0.7), False), ((0.9, 0.7, 0.8), False)]
)
def test_verdict_needs_the_right_order(ends, passed, capsys):
    results = {
        variant: {"start": [0.5, 0.5], "end": [end, end], "agreement": 0.5, "updates": 8, "b_u": 3}
        for variant, end in zip(VARIANTS, ends, strict=True)
    }
    assert summarize(results)["passed"] is passed
    assert ("passed" if passed else "FAILED") in capsys.readouterr().out


def test_the_whole_check_runs(tmp_path, _one_thread):
    out = tmp_path / "found.json"
    code = main(["--epochs", "1", "--stage-1-epochs", "1", "--json", str(out), "--set", "epoch_length=1",
                 "network_def#features=[2,2,4,4,8,2]"])  # fmt: skip
    found = json.loads(out.read_text())
    assert code == (0 if found["passed"] else 2)
    assert list(found["results"]) == list(VARIANTS)
    agreement = {variant: result["agreement"] for variant, result in found["results"].items()}
    assert agreement["truth"] == 1 and agreement["teacher"] < 1
    starts = [result["start"] for result in found["results"].values()]
    assert starts[0] == starts[1] == starts[2], "all begin with the same weights"
    assert {(result["updates"], result["b_u"]) for result in found["results"].values()} == {(1, 3)}
