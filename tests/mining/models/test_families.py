"""SAM, SAM-HQ, SAM 2, SAM 3's tracker: embeddings that may be kept, prompts in any order, weights that stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskGeneration

from mining.scenes import certain, disk
from mnseg.mining import EmbeddingCache, Miner, build_promptable
from mnseg.mining.prompts import PromptSettings, find_components, make_prompt

FAMILIES = ["sam", "sam_hq", "sam2", "sam3"]
SHAPE = (50, 80)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
MASK = disk(SHAPE, (20, 20), 9) + 2 * disk(SHAPE, (30, 60), 12) + disk(SHAPE, (45, 35), 2)


def prompts(positive=3, negative=4):
    probabilities, made_with = certain(MASK, 3), PromptSettings(positive_points=positive, negative_points=negative)
    return [make_prompt(index, component, MASK, probabilities[index], made_with)
            for index, component in find_components(MASK, 3)]  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request, models_dir):
    return build_promptable(str(models_dir / request.param))


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_from_a_kept_embedding_are_those_of_one_pass(models_dir, name):
    """Oracle: transformers' own forward on pixels, prompts written out by hand."""
    ours = build_promptable(str(models_dir / name))
    whole = AutoModelForMaskGeneration.from_pretrained(models_dir / name).eval()
    (prompt,) = prompts()[:1]
    scale = np.array([64 / 80, 64 / 80]) if name in ("sam", "sam_hq") else np.array([64 / 80, 64 / 50])
    row0, column0, row1, column1 = prompt.box
    box = np.array([column0, row0, column1 - 1, row1 - 1]) * np.tile(scale, 2)
    with torch.no_grad():
        output = whole(
            pixel_values=ours.frame.pixels(IMAGE),
            input_boxes=torch.tensor(box, dtype=torch.float32).reshape(1, 1, 4),
            input_points=torch.tensor(prompt.points[:, ::-1] * scale, dtype=torch.float32).reshape(1, 1, -1, 2),
            input_labels=torch.tensor(prompt.point_labels).reshape(1, 1, -1),
        )
    ((masks, quality),) = ours.segment(IMAGE, ours.embed(IMAGE), [prompt])
    np.testing.assert_allclose(quality, output.iou_scores[0, 0].clamp(0, 1), atol=1e-6)
    np.testing.assert_array_equal(masks, ours.frame.restore(output.pred_masks[0], SHAPE)[0].numpy())
    assert masks.shape == (3, *SHAPE) and masks.dtype == bool
    assert masks.any() and not masks.all()


@pytest.mark.parametrize("name", FAMILIES)
def test_clicks_without_a_box_are_those_of_transformers(models_dir, name):
    ours = build_promptable(str(models_dir / name))
    whole = AutoModelForMaskGeneration.from_pretrained(models_dir / name).eval()
    with_box = prompts()[0]
    prompt = replace(with_box, box=None)
    points = ours.frame.coordinates(prompt.points, SHAPE)[None, None]
    with torch.no_grad():
        output = whole(pixel_values=ours.frame.pixels(IMAGE), input_points=points,
                       input_labels=torch.tensor(prompt.point_labels).reshape(1, 1, -1))  # fmt: skip
    (boxed, _), (masks, quality) = ours.segment(IMAGE, ours.embed(IMAGE), [with_box, prompt])
    np.testing.assert_allclose(quality, output.iou_scores[0, 0].clamp(0, 1), atol=1e-6)
    np.testing.assert_array_equal(masks, ours.frame.restore(output.pred_masks[0], SHAPE)[0].numpy())
    assert (boxed != masks).any()


def test_prompts_do_not_influence_each_other(family):
    """Components of different size have different numbers of points; order and company must not matter."""
    asked = prompts(positive=14)
    assert len({len(prompt.points) for prompt in asked}) > 1
    embedding = family.embed(IMAGE)
    together = family.segment(IMAGE, embedding, asked)
    backwards = family.segment(IMAGE, embedding, asked[::-1])[::-1]
    alone = [family.segment(IMAGE, embedding, [prompt])[0] for prompt in asked]
    for others in (backwards, alone):
        for (masks, quality), (masks_2, quality_2) in zip(together, others, strict=True):
            np.testing.assert_allclose(quality, quality_2, atol=1e-5)
            assert (masks != masks_2).mean() < 1e-3


def test_prompts_have_an_effect(family):
    """Boxes, points and the points' signs all reach the decoder."""
    embedding, (prompt,) = family.embed(IMAGE), prompts()[:1]
    variants = [prompt, prompts(0, 0)[0], prompts(3, 0)[0], prompts()[1]]
    answers = [family.segment(IMAGE, embedding, [variant])[0][1] for variant in variants]
    for i, a in enumerate(answers):
        assert all(np.abs(a - b).max() > 0 for b in answers[i + 1 :])


def test_weights_never_change(family):
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    assert not family.model.training and not any(p.requires_grad for p in family.model.parameters())
    with torch.enable_grad():
        embedding = family.embed(IMAGE)
        mined = Miner(family, min_predicted_iou=0, min_agreement=0, min_stability=0).mine("a", IMAGE, certain(MASK, 3))
    assert mined.label is not None and len(mined.components) == 3
    assert not any(value.requires_grad for value in embedding.values())
    after = family.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_second_round_calls_the_encoder_zero_times(family, tmp_path):
    calls = []
    family.model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    labels = []
    for expected in (1, 1):
        miner = Miner(family, EmbeddingCache(tmp_path), min_predicted_iou=0, min_agreement=0, min_stability=0)
        labels.append(miner.mine("a", IMAGE, certain(MASK, 3)).label)
        assert len(calls) == expected
    np.testing.assert_array_equal(*labels)
    miner.mine("a", IMAGE[..., 0], certain(MASK, 3))
    assert len(calls) == 2


def test_one_mask_a_prompt(models_dir):
    model = build_promptable(str(models_dir / "sam"), multimask=False)
    ((masks, quality),) = model.segment(IMAGE, model.embed(IMAGE), prompts()[:1])
    assert masks.shape == (1, *SHAPE) and quality.shape == (1,)
