"""RandomWarp: what it does to images, what it refuses, and that a fit with it can go on."""

import math

import pytest
import torch
from conftest import DIGITS, Cli
from torch.nn import functional as F

from lit_mnist import MNISTDataModule
from lit_mnist.augment import RandomWarp

STILL = {"rotation": 0.0, "shear": 0.0, "scale": 0.0, "shift": 0.0}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    data = MNISTDataModule("digits")
    data.setup("fit")
    return data.splits["train"][0][:64].float() / 255  # (64, 28, 28)


def middles(images: torch.Tensor) -> torch.Tensor:
    """The centre of mass of each image in pixels, x and y: (B, 2)."""
    mass, place = images.sum((1, 2)), torch.arange(28.0)
    return torch.stack([(images.sum(1) * place).sum(1), (images.sum(2) * place).sum(1)], dim=1) / mass[:, None]


def test_with_nothing_to_do_an_image_stays_as_it_is(images):
    torch.testing.assert_close(RandomWarp(**STILL)(images), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["rotation", "shear", "scale", "shift", "elastic"])
def test_each_part_alone_changes_every_image_in_its_own_way(images, part):
    torch.manual_seed(0)
    one = images[:1].expand(8, 28, 28)
    amount = 0.3 if part == "scale" else 3.0 if part == "shift" else 1.5 if part == "elastic" else 20.0
    changed = RandomWarp(**{**STILL, part: amount})(one)
    assert (changed.shape, changed.dtype) == (one.shape, one.dtype)
    assert changed.min() >= 0
    assert changed.max() <= 1.001
    assert len(torch.unique(changed.flatten(1), dim=0)) == 8
    assert (changed - one).abs().max() > 0.05


def test_bicubic_interpolation_blurs_less_and_stays_in_range(images):
    steps = []
    for interpolation in ("bilinear", "bicubic"):
        torch.manual_seed(0)
        changed = RandomWarp(**{**STILL, "shift": 2.0}, interpolation=interpolation)(images)
        assert changed.min() >= 0
        assert changed.max() <= 1
        steps.append(changed.diff().square().sum())
    assert steps[0] < 0.9 * steps[1]


def test_a_shift_moves_by_so_many_pixels_at_most(images):
    moved = middles(RandomWarp(**{**STILL, "shift": 2.0})(images)) - middles(images)
    assert 1 < moved.abs().max() <= 2.2


def test_the_affine_map_is_a_shear_then_a_rotation_a_scale_and_a_shift(images):
    torch.manual_seed(3)
    changed = RandomWarp(rotation=30.0, shear=20.0, scale=0.3, shift=3.0)(images[:5])
    torch.manual_seed(3)
    angle, shear, width, height, right, down = torch.empty(6, 5).uniform_(-1, 1)
    angle, shear, one, none = angle * torch.pi / 6, shear * math.tan(math.radians(20)), torch.ones(5), torch.zeros(5)

    def matrix(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return torch.stack([a, b, c, d], dim=1).view(5, 2, 2)

    sheared, turned = matrix(one, shear, none, one), matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    scaled = matrix(1 / (1 + 0.3 * width), none, none, 1 / (1 + 0.3 * height))
    shift = torch.stack([right, down], dim=1)[..., None] * 3 / 14  # 14 pixels are half an image
    grid = F.affine_grid(torch.cat([scaled @ turned @ sheared, shift], dim=2), [5, 1, 28, 28], False)
    expected = F.grid_sample(images[:5, None], grid, align_corners=False)[:, 0]
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("smoothness", [2.0, 4.0, 8.0])
def test_an_elastic_displacement_has_the_standard_deviation_that_was_asked_for(smoothness):
    bends = RandomWarp(elastic=1.5, smoothness=smoothness)._bend(torch.zeros(500, 28, 28)) * 14  # in pixels
    assert bends.std().item() == pytest.approx(1.5, rel=0.06)
    beside = (bends[..., 1:] * bends[..., :-1]).mean() / bends.var()  # correlation of neighbours
    assert beside.item() == pytest.approx(torch.tensor(-1 / (4 * smoothness**2)).exp().item(), abs=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", -1.0), ("shear", -1.0), ("shift", -0.1), ("elastic", -1.0), ("scale", 1.0), ("smoothness", 1.0)],
)
def test_what_lies_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value} is not "):
        RandomWarp(**{name: value})


def test_a_fit_with_warped_images_continued_from_an_epoch_equals_one_that_never_stopped(cli: Cli, tmp_path):
    def fit(name, epochs, *options):
        last = tmp_path / name / "lightning_logs/version_0/checkpoints/last.ckpt"
        start = ("--ckpt_path", last) if last.exists() else (*DIGITS, "--figures", "false", *options)
        cli("fit", *start, "--trainer.max_epochs", epochs, "--trainer.default_root_dir", tmp_path / name).worked()
        return torch.load(last, weights_only=True)["state_dict"]

    warp = ("--data.augment", "RandomWarp", "--data.augment.elastic", 1)
    whole, first, second, plain = fit("a", 2, *warp), fit("b", 1, *warp), fit("b", 2), fit("c", 2)
    assert all(torch.equal(whole[name], second[name]) for name in whole)
    assert not any(torch.equal(whole[name], other[name]) for name in whole for other in (first, plain))


def test_images_of_any_size_are_turned_without_distortion() -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(40.0) - 19.5, indexing="ij")
    disk = (8 - (x**2 + y**2).sqrt()).clip(0, 1).expand(16, 20, 40)
    turned = RandomWarp(**{**STILL, "rotation": 90.0})(disk)
    assert (turned - disk).abs().max() < 0.25  # an ellipse would differ by 1
    bent = RandomWarp(**STILL | {"elastic": 1.5})(disk)
    assert (bent.shape, bool((bent - disk).abs().max() > 0.5)) == (disk.shape, True)


def test_the_planes_of_a_colour_image_are_warped_alike(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    warped = RandomWarp(elastic=1.0)(images[:, None].expand(-1, 3, -1, -1))
    torch.manual_seed(0)
    expected = RandomWarp(elastic=1.0)(images)
    assert all(torch.equal(warped[:, plane], expected) for plane in range(3))
