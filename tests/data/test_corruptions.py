"""Corruptions: functions of image, spec and key, with the published constants, checked against plain formulas."""

import colorsys
import io
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import gaussian_blur

from lorattt.data.corruption_ops import OPERATIONS, disk, plasma
from lorattt.data.corruptions import NAMES, CorruptedImages, CorruptionSpec, corrupt
from lorattt.data.images import UnreadableImageError
from lorattt.errors import UserError
from lorattt.report.layout import ALEXNET_ERRORS

Floats = NDArray[np.float64]
RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "snow", "fog",
    "elastic_transform",
}  # fmt: skip
# Runs of severities over which the published constants grow together. Elsewhere the kind of change differs: from
# less to more saturation, from bending the image to shaking its pixels, from fine flakes to large ones.
GROWING = {"saturate": [(1, 2), (3, 4, 5)], "elastic_transform": [(1, 2), (3, 4, 5)], "snow": [(1, 2), (3, 4, 5)]}


def scene(width: int = 96, height: int = 80) -> Image.Image:
    """Something like a photograph: a smooth ground, edges, fine texture, all hues, some grey, black and white."""
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([60 + x, 90 + y, 140 - 0.5 * x], axis=2) + 12 * np.sin(x * y / 40)[..., None]
    ground[(x - 60) ** 2 + (y - 30) ** 2 < 300] = (210, 60, 40)
    ground[50:70, 10:50] = (30, 120, 200)
    ground[55:65, 12:24] = 128
    ground[5:20, 5:30] = np.where((x + y) % 4 < 2, 20, 200)[5:20, 5:30, None]
    ground[70:74, 60:90] = 0
    ground[74:78, 60:90] = 255
    return Image.fromarray(ground.clip(0, 255).astype(np.uint8))


def flat(value: int, side: int = 128) -> Image.Image:
    return Image.new("RGB", (side, side), (value, value, value))


def values(image: Image.Image) -> Floats:
    return np.asarray(image, dtype=np.float64) / 255


def operate(name: str, x: Floats, *constants: float, key: int = 0) -> Floats:
    """An operation with constants of the test's choice."""
    return OPERATIONS[name][0](x, np.random.default_rng(key), *constants)


def constant(name: str, severity: int) -> float:
    only: float = OPERATIONS[name][1][severity - 1][0]
    return only


def test_the_names_are_the_papers() -> None:
    assert {*NAMES[:14], "frost"} == set(ALEXNET_ERRORS)
    assert len(ALEXNET_ERRORS) == 15
    assert NAMES[14:] == ("speckle_noise", "gaussian_blur", "saturate")
    assert all(len(constants) == 5 for _, constants in OPERATIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_a_function_of_image_spec_and_key(name: str) -> None:
    image = scene(40, 33)
    before = image.tobytes()
    specs = [CorruptionSpec(name, severity) for severity in range(1, 6)]
    jobs = [(spec, key) for spec in specs for key in (5, -5, 2**64 + 6)]
    first = {job: corrupt(image, *job) for job in jobs}
    random.Random(0).shuffle(jobs)
    np.random.seed(1)  # noqa: NPY002 - the global generator must make no difference
    for job in jobs:
        again = corrupt(image, *job)
        assert again.tobytes() == first[job].tobytes()
        assert (again.size, again.mode) == (image.size, "RGB")
    assert image.tobytes() == before
    for spec in specs:
        alike = [first[spec, 5].tobytes() == first[spec, key].tobytes() for key in (-5, 2**64 + 6)]
        assert alike == ([False, False] if name in RANDOM else [True, True])


@pytest.mark.parametrize("name", NAMES)
def test_any_size_is_kept(name: str) -> None:
    for size in ((1, 1), (2, 5), (7, 3), (130, 20)):
        for severity in (1, 5):
            result = corrupt(scene().resize(size), CorruptionSpec(name, severity), 1)
            assert (result.size, result.mode) == (size, "RGB")


@pytest.mark.parametrize("name", NAMES)
def test_images_change_more_with_severity(name: str) -> None:
    image = scene()
    changes = [
        np.mean(
            [np.abs(values(corrupt(image, CorruptionSpec(name, s), key)) - values(image)).mean() for key in range(3)]
        )
        for s in range(1, 6)
    ]
    assert min(changes) > 0.001
    for run in GROWING.get(name, [(1, 2, 3, 4, 5)]):
        assert all(changes[a - 1] < changes[b - 1] for a, b in pairwise(run)), changes


@pytest.mark.parametrize("severity", range(1, 6))
def test_noise_has_the_published_strength(severity: int) -> None:
    def differences(name: str, value: int) -> Floats:
        return values(corrupt(flat(value), CorruptionSpec(name, severity), 3)) - value / 255

    # Clipping weighs on the wide ones: the same clipping of other draws is the measure.
    draws = np.random.default_rng(severity).normal(size=200_000)
    scale = constant("gaussian_noise", severity)
    expected = np.clip(0.5 + scale * draws, 0, 1).std()
    assert differences("gaussian_noise", 128).std() == pytest.approx(expected, rel=0.02)
    expected = np.clip(0.5 + 0.5 * constant("speckle_noise", severity) * draws, 0, 1).std()
    assert differences("speckle_noise", 128).std() == pytest.approx(expected, rel=0.02)
    # A Poisson variable's variance is its mean; at 1/5 of full light it is seldom above full light.
    photons = constant("shot_noise", severity)
    counts = np.random.default_rng(severity).poisson(0.2 * photons, 200_000) / photons
    assert differences("shot_noise", 51).std() == pytest.approx(np.clip(counts, 0, 1).std(), rel=0.03)
    hit = differences("impulse_noise", 128) != 0
    assert hit.mean() == pytest.approx(constant("impulse_noise", severity), rel=0.06)
    assert (differences("impulse_noise", 128)[hit] > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_noise_constants_are_the_published() -> None:
    assert [constant("gaussian_noise", s) for s in range(1, 6)] == [0.08, 0.12, 0.18, 0.26, 0.38]
    assert [constant("shot_noise", s) for s in range(1, 6)] == [60, 25, 12, 5, 3]
    assert [constant("impulse_noise", s) for s in range(1, 6)] == [0.03, 0.06, 0.09, 0.17, 0.27]


def test_noise_is_independent_over_pixels_and_channels() -> None:
    noise = values(corrupt(flat(128), CorruptionSpec("gaussian_noise", 1), 3)) - 128 / 255
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.03


def test_impulses_are_black_or_white() -> None:
    result = np.asarray(corrupt(scene(), CorruptionSpec("impulse_noise", 5), 0))
    changed = result != np.asarray(scene())
    assert set(result[changed]) == {0, 255}
    # Each channel is hit on its own: all three at once in amount^3 of the pixels.
    hit = np.asarray(corrupt(flat(128), CorruptionSpec("impulse_noise", 5), 0)) != 128
    assert hit.all(axis=2).mean() == pytest.approx(0.27**3, rel=0.3)


def by_hsv(image: Image.Image, change: Callable[[float, float, float], tuple[float, float, float]]) -> Floats:
    pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in values(image).reshape(-1, 3)]
    return np.array(pixels).reshape(*values(image).shape)


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_saturation_are_those_of_hsv(severity: int) -> None:
    def raised(h: float, s: float, v: float) -> tuple[float, float, float]:
        return h, s, min(v + severity / 10, 1)

    def saturated(h: float, s: float, v: float) -> tuple[float, float, float]:
        factor, rise = [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)][severity - 1]
        return h, min(s * factor + rise, 1), v

    for name, change in (("brightness", raised), ("saturate", saturated)):
        result = values(corrupt(scene(), CorruptionSpec(name, severity), 0))
        assert np.abs(result - by_hsv(scene(), change)).max() <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.4, 0.3, 0.2, 0.1, 0.05], start=1)))
def test_contrast_shrinks_each_channel_towards_its_mean(severity: int, share: float) -> None:
    x = values(scene())
    expected = share * x + (1 - share) * x.reshape(-1, 3).mean(axis=0)
    result = values(corrupt(scene(), CorruptionSpec("contrast", severity), 0))
    assert np.abs(result - expected).max() <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.6, 0.5, 0.4, 0.3, 0.25], start=1)))
def test_pixelate_is_pillows_way_there_and_back(severity: int, share: float) -> None:
    small = scene(96, 80).resize((int(96 * share), int(80 * share)), Image.Resampling.BOX)
    result = corrupt(scene(96, 80), CorruptionSpec("pixelate", severity), 0)
    assert result.tobytes() == small.resize((96, 80), Image.Resampling.BOX).tobytes()


@pytest.mark.parametrize(("severity", "quality"), list(enumerate([25, 18, 15, 10, 7], start=1)))
def test_jpeg_compression_is_a_file_of_that_quality(severity: int, quality: int) -> None:
    file = io.BytesIO()
    scene().save(file, "JPEG", quality=quality)
    result = corrupt(scene(), CorruptionSpec("jpeg_compression", severity), 0)
    assert result.tobytes() == Image.open(file).convert("RGB").tobytes()


@pytest.mark.parametrize(("severity", "sigma"), list(enumerate([1, 2, 3, 4, 6], start=1)))
def test_gaussian_blur_is_torchvisions_away_from_the_border(severity: int, sigma: int) -> None:
    planes = torch.from_numpy(values(scene())).permute(2, 0, 1)
    expected = gaussian_blur(planes, [8 * sigma + 1] * 2, [float(sigma)] * 2).permute(1, 2, 0).numpy()
    result = values(corrupt(scene(), CorruptionSpec("gaussian_blur", severity), 0))
    inner = slice(4 * sigma, -4 * sigma)
    assert np.abs(result - expected)[inner, inner].max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "glass_blur"])
def test_blur_leaves_a_flat_image_alone(name: str) -> None:
    image = Image.new("RGB", (50, 41), (10, 130, 250))
    assert {corrupt(image, CorruptionSpec(name, s), s).tobytes() for s in range(1, 6)} == {image.tobytes()}


@pytest.mark.parametrize(("radius", "sigma"), [(3, 0.1), (8, 0.5), (10, 0.5)])
def test_defocus_is_a_mean_over_a_disk(radius: int, sigma: float) -> None:
    kernel = disk(radius, sigma)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(kernel, kernel[::-1]) or np.allclose(kernel, kernel[::-1], atol=1e-15)
    assert np.allclose(kernel, kernel.T, atol=1e-15)
    assert kernel.max() == pytest.approx(1 / (np.pi * radius**2), rel=0.1)
    x = values(scene())
    margin = len(kernel) // 2
    padded = F.pad(torch.from_numpy(x).permute(2, 0, 1), (margin,) * 4, mode="reflect")
    expected = F.conv2d(padded.unsqueeze(1), torch.from_numpy(kernel)[None, None]).squeeze(1).permute(1, 2, 0).numpy()
    assert np.allclose(operate("defocus_blur", x, radius, sigma), expected, atol=1e-12)


def test_glass_blur_moves_pixels_within_the_image() -> None:
    # So narrow a blur is none: what is left is the exchange of pixels.
    x = np.random.default_rng(0).random((30, 40, 3))
    result = operate("glass_blur", x, 1e-3, 2, 1)
    assert sorted(map(tuple, result.reshape(-1, 3))) == sorted(map(tuple, x.reshape(-1, 3)))
    moved = (result != x).any(axis=2)
    assert moved[3:29, 3:39].mean() > 0.6
    assert not moved[0].any()
    # Colours go no further than a few exchanges carry them.
    ramp = np.repeat(np.arange(40.0)[None, :, None], 30, axis=0).repeat(3, axis=2) / 40
    assert np.abs(operate("glass_blur", ramp, 1e-3, 1, 1) - ramp).mean() < 2 / 40


def motion_oracle(x: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """Pixel by pixel, along the line, with the border repeated."""
    result = np.zeros_like(x)
    weights = [np.exp(-(n**2) / (2 * sigma**2)) for n in range(2 * radius + 1)]
    for (row, column), _ in np.ndenumerate(x[..., 0]):
        for n, weight in enumerate(weights):
            down = int(np.ceil(n * np.sin(np.radians(angle)) - 0.5))
            across = int(np.ceil(n * np.cos(np.radians(angle)) - 0.5))
            inside = min(max(row + down, 0), x.shape[0] - 1), min(max(column + across, 0), x.shape[1] - 1)
            result[row, column] += weight / sum(weights) * x[inside]
    return result


def test_motion_blur_goes_along_a_line() -> None:
    x = values(scene(20, 16))
    angle = np.random.default_rng(4).uniform(-45, 45)
    assert np.allclose(operate("motion_blur", x, 4, 2.5, key=4), motion_oracle(x, 4, 2.5, angle), atol=1e-12)


def test_zoom_blur_is_the_mean_of_enlarged_middles() -> None:
    x = values(scene(48, 40))
    total = x.copy()
    factors = [1.0, 1.1, 1.2, 1.3]
    for factor in factors:
        height, width = int(np.ceil(40 / factor)), int(np.ceil(48 / factor))
        top, left = (40 - height) // 2, (48 - width) // 2
        crop = torch.from_numpy(x[top : top + height, left : left + width]).permute(2, 0, 1)[None]
        size = [round(height * factor), round(width * factor)]
        large = F.interpolate(crop, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()
        top, left = (size[0] - 40) // 2, (size[1] - 48) // 2
        total += large[top : top + 40, left : left + 48]
    assert np.allclose(operate("zoom_blur", x, 1.35, 0.1), total / (len(factors) + 1), atol=1e-12)


@pytest.mark.parametrize("decay", [1.4, 2.0])
def test_plasma_is_a_periodic_cloud_from_0_to_1(decay: float) -> None:
    cloud = plasma(128, decay, np.random.default_rng(0))
    assert cloud.shape == (128, 128)
    assert (cloud.min(), cloud.max()) == (0, 1)
    # Neighbours are alike, also over the border; far places are not.
    steps = np.abs(np.diff(cloud, axis=0, append=cloud[:1])).mean(axis=1)
    assert steps[-1] < 2 * steps.mean()
    assert steps.mean() < 0.25 * np.abs(cloud - np.roll(cloud, 64, axis=0)).mean()
    # A slower decay leaves more detail.
    assert (
        np.abs(np.diff(plasma(128, 1.4, np.random.default_rng(1)))).mean()
        > np.abs(np.diff(plasma(128, 2.5, np.random.default_rng(1)))).mean()
    )


@pytest.mark.parametrize(("severity", "density"), list(enumerate([1.5, 2, 2.5, 2.5, 3], start=1)))
def test_fog_lies_over_a_white_image_as_described(severity: int, density: float) -> None:
    result = values(corrupt(flat(255), CorruptionSpec("fog", severity), 2))
    # (1 + density * cloud) / (1 + density), and somewhere the cloud is 0 and somewhere 1.
    assert result.min() == pytest.approx(1 / (1 + density), abs=0.5 / 255 + 1e-9)
    assert result.max() == 1
    assert np.array_equal(result[..., 0], result[..., 2])
    # In a dark image the brightest value stays what it was.
    dark = values(corrupt(flat(102), CorruptionSpec("fog", severity), 2))
    assert dark.min() == pytest.approx(0.4**2 / (0.4 + density), abs=0.5 / 255 + 1e-9)
    assert dark.max() == pytest.approx(0.4)


def test_snow_whitens_and_falls_downwards() -> None:
    for severity in range(1, 6):
        result = values(corrupt(flat(40), CorruptionSpec("snow", severity), 1))
        keep = OPERATIONS["snow"][1][severity - 1][-1]
        # Without a flake, a dark pixel moves towards half its grey value again and a half.
        ground = keep * 40 / 255 + (1 - keep) * (1.5 * 40 / 255 + 0.5)
        assert result.min() >= ground - 0.5 / 255 - 1e-9
        flakes = result[..., 0] - ground
        # The layer lies on the image twice, once turned around.
        assert np.allclose(flakes, flakes[::-1, ::-1], atol=1 / 255)
        # Streaks within 45 degrees of the vertical: pixels resemble the one below more than the one beside.
        assert np.abs(np.diff(flakes, axis=0)).mean() < np.abs(np.diff(flakes, axis=1)).mean()


def test_the_elastic_transform_moves_colours_and_makes_none() -> None:
    for severity in range(1, 6):
        result = np.asarray(corrupt(flat(77), CorruptionSpec("elastic_transform", severity), 1))
        assert (result == 77).all()
    x = values(scene())
    assert np.allclose(operate("elastic_transform", x, 0, 0.01, 0), x, atol=1e-9)


def test_the_elastic_transform_maps_three_corners() -> None:
    """Ramps of row and column show where each pixel came from."""
    height, width, shift = 60, 90, 0.2
    ramps = np.zeros((height, width, 3))
    ramps[..., 0], ramps[..., 1] = np.mgrid[0:height, 0:width]
    result = operate("elastic_transform", ramps, 0, 0.01, shift, key=3)
    corners = np.array([[50, 65], [10, 65], [10, 25]])
    unit = 60 * 244 / 224
    moved = corners + np.random.default_rng(3).uniform(-shift * unit, shift * unit, (3, 2))
    # A place is the same mixture of the corners before and after.
    mixture = np.linalg.inv(np.vstack([moved.T, np.ones(3)]))
    places = np.stack([*np.mgrid[0:height, 0:width], np.ones((height, width))])
    source = np.einsum("ij,jk,kyx->yxi", corners.T, mixture, places)
    last = np.array([height - 1, width - 1])
    assert (source < 0).any()
    assert (source > last).any()
    # Outside, the image is mirrored at the centres of the border pixels.
    assert np.allclose(result[..., :2], last - np.abs(source % (2 * last) - last), atol=1e-9)


def test_the_elastic_transform_shakes_pixels_as_a_smooth_field_says() -> None:
    height, width, strength, sigma = 14, 11, 0.6, 0.1
    unit = 11 * 244 / 224
    x = np.random.default_rng(0).random((height, width, 3))
    rng = np.random.default_rng(9)
    rng.uniform(size=(3, 2))  # the three corners, which stay where they are
    reach = int(3 * sigma * unit + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / (sigma * unit)) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    fields = []
    for _ in range(2):
        padded = np.pad(rng.uniform(-1, 1, (height, width)), reach, mode="symmetric")
        fields.append(
            F.conv2d(torch.from_numpy(padded)[None, None], kernel[None, None])[0, 0].numpy() * strength * unit
        )
    margin = 20  # mirrored with the border pixel repeated
    mirrored = np.pad(x, [(margin, margin), (margin, margin), (0, 0)], mode="symmetric")
    expected = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            y, z = row + fields[1][row, column] + margin, column + fields[0][row, column] + margin
            top, left = int(y), int(z)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - top - i)) * (1 - abs(z - left - j))
                expected[row, column] += weight * mirrored[top + i, left + j]
    assert max(np.abs(field).max() for field in fields) > 1.5
    assert np.allclose(operate("elastic_transform", x, strength, sigma, 0, key=9), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fog", 0, "corruption fog: severity 0 must be 1, 2, 3, 4 or 5"),
        ("fog", 6, "corruption fog: severity 6 must be 1, 2, 3, 4 or 5"),
        ("fog", 2.5, "severity 2.5 must be"),
        ("gausian_noise", 1, "no corruption is named 'gausian_noise'; did you mean 'gaussian_noise'"),
        ("rain_of_frogs", 1, "no corruption is named 'rain_of_frogs'; use one of gaussian_noise, shot_noise"),
        ("frost", 3, "corruption 'frost' needs photographs of frost that lorattt does not ship"),
        ("spatter", 3, "corruption 'spatter' is not built in: read ImageNet-C's own files"),
    ],
)
def test_what_does_not_exist_is_refused(name: str, severity: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        CorruptionSpec(name, severity)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="RGB images, not L"):
        corrupt(scene().convert("L"), CorruptionSpec("fog", 1), 0)


class Scenes:
    """Images of several sizes; number 2 cannot be read."""

    name = "scenes"

    def __init__(self) -> None:
        self.class_names = ["small", "large"]

    def __len__(self) -> int:
        return 4

    def path(self, index: int) -> str:
        return f"scene/{index}.png"

    def label(self, index: int) -> int:
        return index // 2

    def read(self, index: int) -> Image.Image:
        if index == 2:
            raise UnreadableImageError("it is broken")
        return scene().resize([(40, 30), (300, 451), (0, 0), (333, 100)][index])


def test_a_corrupted_source_differs_in_its_images_and_name_alone() -> None:
    clean, source = Scenes(), CorruptedImages(Scenes(), CorruptionSpec("fog", 3), seed=0)
    assert source.name == "scenes (fog 3)"
    assert (len(source), source.class_names) == (4, clean.class_names)
    assert [source.path(i) for i in range(4)] == [clean.path(i) for i in range(4)]
    assert [source.label(i) for i in range(4)] == [clean.label(i) for i in range(4)]
    with pytest.raises(UnreadableImageError, match="it is broken"):
        source.read(2)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_images_are_brought_to_224_as_for_imagenet_c(index: int) -> None:
    source = CorruptedImages(Scenes(), CorruptionSpec("pixelate", 2), seed=0)
    square = Compose([Resize(256), CenterCrop(224)])(Scenes().read(index))
    assert source.read(index).tobytes() == corrupt(square, CorruptionSpec("pixelate", 2), 0).tobytes()


def test_draws_depend_on_seed_and_number_alone() -> None:
    class Greys(Scenes):
        def read(self, index: int) -> Image.Image:
            return flat(128, 8)

    def read(order: list[int], seed: int) -> dict[int, bytes]:
        source = CorruptedImages(Greys(), CorruptionSpec("gaussian_noise", 5), seed)
        return {index: source.read(index).tobytes() for index in order}

    forth, back, other = read([0, 1, 2, 3], 7), read([3, 1, 0, 2, 2], 7), read([0, 1, 2, 3], 8)
    assert forth == back
    assert len({*forth.values(), *other.values()}) == 8
