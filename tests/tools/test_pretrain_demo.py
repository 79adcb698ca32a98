"""Pretraining of the demo's model: its loss, its crops, and the file it leaves."""

from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as TF

from lorattt.demo import CHECKPOINT, MODEL_CONFIG, SEEN
from tools import pretrain_demo
from tools.demo_batches import CroppedBatches, Pool, crop_resize, draw_pool, random_boxes
from tools.demo_clip import contrastive_loss, crowding

# The file does not hold the causal mask, which open_clip builds itself.
MISSING = {"attn_mask"}


def check_state(path: Path) -> None:
    """The file holds every weight of open_clip's CLIP and nothing else."""
    model = CLIP(**MODEL_CONFIG)
    report = model.load_state_dict(load_file(path), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= MISSING
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_contrastive_loss_is_the_mean_of_negative_log_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    texts = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    scale = torch.tensor(9.0, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for image, label in zip(images, labels, strict=True):
        exponentials = [torch.exp(scale * torch.cosine_similarity(image, text, dim=0)) for text in texts]
        total -= torch.log(exponentials[label] / sum(exponentials))
    torch.testing.assert_close(contrastive_loss(images, texts, labels, scale), total / 5)


def test_the_program_trains_and_leaves_a_file_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--steps", "2", "--batch-size", "8", "--pool", "48", "--validation", "64"]
    states = []
    for name, *more in (("one", "--seed", "1"), ("other", "--seed", "1"), ("third", "--seed", "2")):
        checkpoint = tmp_path / "deep" / f"{name}.safetensors"
        monkeypatch.setattr("sys.argv", ["pretrain_demo", "--checkpoint", str(checkpoint), *small, *more])
        pretrain_demo.main()
        check_state(checkpoint)
        states.append(load_file(checkpoint))
        with safe_open(checkpoint, "pt") as file:
            assert file.metadata()["steps"] == "2"
            assert file.metadata()["seed"] == more[1]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items()), "a seed gives one result"
    assert not torch.equal(states[0]["visual.proj"], states[2]["visual.proj"])


def test_the_shipped_checkpoint_fits_the_configuration() -> None:
    check_state(CHECKPOINT)
    assert CHECKPOINT.stat().st_size < 9e6


def test_batched_crops_agree_with_torchvision() -> None:
    pixels = draw_pool(6, "train", 0).pixels
    boxes = random_boxes(6, 96, (0.2, 1.0), torch.Generator().manual_seed(0))
    crops = crop_resize(pixels, boxes, 48)
    for crop, image, box in zip(crops, pixels, boxes.int().tolist(), strict=True):
        expected = TF.resized_crop(image.float() / 255, *box, size=[48, 48], antialias=True)
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [(0.1, 0.3), (0.9, 1.0)])
def test_boxes_lie_within_the_image_and_have_the_area_asked_for(scale: tuple[float, float]) -> None:
    boxes = random_boxes(500, 96, scale, torch.Generator().manual_seed(1))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 96).all()
    area = boxes[:, 2] * boxes[:, 3] / 96**2
    assert area.max() <= scale[1] * 1.05
    assert area.min() >= min(scale[0], 3 / 4) * 0.95


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Every seen class once, each image painted with its label as its intensity."""
    drawn = draw_pool(48, "train", 0)
    drawn.pixels[:] = drawn.labels.view(-1, 1, 1, 1).to(torch.uint8)
    return drawn


def batches(pool: Pool, zoom_steps: int) -> CroppedBatches:
    return CroppedBatches(
        pool, steps=3, batch_size=16, side=48, crop_share=0.5, scale=(0.2, 1.0), zoom_steps=zoom_steps, seed=0
    )


def test_a_batch_depends_on_its_number_alone_and_keeps_pixels_with_labels(pool: Pool) -> None:
    images, chosen = batches(pool, 2)[1]
    torch.testing.assert_close(batches(pool, 2)[1][0], images)
    assert not torch.equal(batches(pool, 2)[2][1], chosen)
    assert set(chosen.tolist()) <= set(SEEN)
    torch.testing.assert_close(images.amax(dim=(1, 2, 3)) * 255, chosen.float(), atol=1e-2, rtol=0)


def test_training_starts_zoomed_in_on_the_shapes() -> None:
    drawn = draw_pool(48, "train", 0)
    drawn.pixels.zero_()
    for image, box in zip(drawn.pixels, drawn.objects.round().int().tolist(), strict=True):
        top, left, height, width = box
        image[:, top : top + height, left : left + width] = 255
    first, _ = batches(drawn, 100)[0]
    assert first.min() > 0.99  # nothing but the marked squares
    later, _ = batches(drawn, 0)[0]
    assert later.mean() < 0.8


def test_objects_are_where_the_shapes_are() -> None:
    drawn = draw_pool(48, "train", 0)
    for image, box, label in zip(drawn.pixels.float(), drawn.objects.int().tolist(), drawn.labels, strict=True):
        top, left, height, width = box
        mask = torch.zeros(96, 96, dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        if label // 8 in (0, 3, 5):  # red, green, blue: one channel stands out
            channel = {0: 0, 3: 1, 5: 2}[int(label) // 8]
            others = [c for c in range(3) if c != channel]
            excess = image[channel] - image[others].amax(dim=0)
            ink = excess > 0.6 * excess.max()
            assert (ink & mask).sum() > 0.95 * ink.sum()  # corners may stick out


def test_crowding_is_lowest_for_orthogonal_texts() -> None:
    same = torch.ones(4, 8) + 1e-4 * torch.eye(4, 8)
    assert crowding(same) > -1e-3
    torch.testing.assert_close(crowding(5 * torch.eye(4, 8)), torch.tensor(-4.0))
