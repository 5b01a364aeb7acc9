"""Draws preparation.png, a photo on its way to the network; given a checkpoint, counts the photos that it reads."""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.runs.folder import LOGS, find_checkpoint
from lit_mnist.use.images import centred, drawing, fitted, grey, prepare
from lit_mnist.views.figures import new_figure, save

WIDTH, HEIGHT = 400, 300
PHOTOS: dict[str, dict[str, float]] = {
    "photos": {},
    "photos turned by up to 25 degrees": {"turn": 25},
    "blurred photos": {"blur": 4},
    "photos of a thick pen": {"level": 0.05},
    "photos of a thin pen": {"level": 0.6},
}


def photo(
    digit: NDArray[np.uint8], chance: np.random.Generator, turn: float = 5, blur: float = 1, level: float = 0.3
) -> Image.Image:
    """A simulated photo of a digit on paper: a JPEG of 400x300 with uneven light and noise.

    Args:
        digit: (28, 28) uint8, light on dark.
        chance: Decides on size, place, turn, pen, paper and light.
        turn: Degrees, at most, to either side.
        blur: Standard deviation of a Gaussian, in pixels.
        level: What counts as background in the digit, as a share of 255: with more, the strokes are thinner.
    """
    side = int(chance.integers(120, 250))
    turned = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    turned = turned.rotate(chance.uniform(-turn, turn), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (WIDTH, HEIGHT))
    canvas.paste(turned, (int(chance.integers(0, WIDTH - side)), int(chance.integers(0, HEIGHT - side))))
    soft = ndimage.gaussian_filter(np.asarray(canvas, float), blur) / 255
    stroke = ((soft - level) * 2.5).clip(0, 1)[..., None]
    paper = chance.uniform(190, 250) * np.array([1, 0.97, 0.9])  # a warm white
    pen = chance.uniform(0.1, 0.5) * np.array([1, 1, chance.uniform(1, 1.7)])  # from black to blue
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    slope, edge = chance.uniform(0, 2 * np.pi, 2)
    light = 0.75 + 0.2 * (np.cos(slope) * x + np.sin(slope) * y)  # from one side
    light *= 1 - 0.15 * (x * x + y * y)  # the lens
    light *= 1 - 0.35 / (1 + np.exp(-6 * (np.cos(edge) * x + np.sin(edge) * y - chance.uniform(-0.6, 0.6))))  # a hand
    bright = paper * light[..., None] * (1 - stroke * (1 - pen)) + chance.normal(0, 8, (HEIGHT, WIDTH, 3))
    file = io.BytesIO()
    Image.fromarray(bright.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return Image.open(file)


def draw(digit: NDArray[np.uint8], path: Path) -> None:
    """Draw the steps of `prepare` side by side."""
    taken = photo(digit, np.random.default_rng(6))
    drawn = drawing(grey(taken))
    small = fitted(drawn)
    steps = {
        "the photo": np.asarray(taken),
        "grey": grey(taken),
        "inverted, background removed": drawn,
        f"cropped and fitted: {small.shape[1]} x {small.shape[0]}": small,
        "centred: 28 x 28": centred(small),
    }
    figure, axes = new_figure(11.5, 2, 1, len(steps), width_ratios=[4, 4, 4, 3, 3])
    for (title, image), one in zip(steps.items(), axes, strict=True):
        one.imshow(image, cmap="gray", vmin=0, vmax=1 if image.max() <= 1 else 255)
        one.set_title(title, fontsize=10)
        one.set_xticks([])
        one.set_yticks([])
        one.spines[:].set_visible(False)
    axes[-1].plot(14, 14, "+", color="#d95f02", markersize=14)  # the centre of mass
    save(figure, path)


def measure(checkpoint: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Print which share of the images (N, 28, 28) is read rightly as they are, and as photos of each kind."""
    classifier = Classifier.load_from_checkpoint(checkpoint)
    kinds = {"as they are": images}
    for name, options in PHOTOS.items():
        chance = np.random.default_rng(0)
        kinds[name] = torch.stack([prepare(photo(image, chance, **options)) for image in images.numpy()])
    for name, pixels in kinds.items():
        with torch.inference_mode():
            right = classifier(rescale(pixels)).argmax(1) == labels  # (N, 28, 28) -> (N,)
        print(f"{right.float().mean():.4f}  {name}")


if __name__ == "__main__":
    data = MNISTDataModule()
    data.setup("test")
    images, labels = data.splits["test"]
    if len(sys.argv) == 1:
        draw(images[32].numpy(), Path(__file__).with_suffix(".png"))
    else:
        measure(find_checkpoint(sys.argv[1], LOGS), images[:1000], labels[:1000])
