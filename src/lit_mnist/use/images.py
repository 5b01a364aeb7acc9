"""Conversion of any image file to the form of the training images, such as MNIST's 28x28 light on dark."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.polynomial.polynomial import polygrid2d, polyvander2d
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from lit_mnist.image_files import ImageError, fit

CONTRAST = 0.03  # share of the full range; less is not visible
BOX, SIDE = 20, 28  # MNIST's digits fill a box of 20x20, centred in 28x28
PEN = 2.4  # smallest width of a stroke, in pixels of the box, like MNIST's thin strokes
FINE = 5  # subpixels per pixel in which strokes are widened

Pixels = NDArray[np.float32]


def preparation(dataset: str, shape: Sequence[int]) -> Callable[[Image.Image], Tensor]:
    """A function that converts an image to the form of a data set: that of MNIST, Fashion-MNIST or any other."""
    known = {**dict.fromkeys(("mnist", "qmnist", "kmnist", "digits"), prepare), "fashion_mnist": clothing}
    return known.get(dataset, partial(fit, shape=shape))


def clothing(image: Image.Image) -> Tensor:
    """Convert an image to Fashion-MNIST's form, light on dark with a longer side of 28 pixels: (28, 28) uint8."""
    pixels = grey(image)  # (H, W)
    background = np.median(np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()]))
    pixels = 255 - pixels if background > 127 else pixels
    rows, columns = (np.flatnonzero((pixels > 255 * CONTRAST).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise ImageError("nothing is shown on the image")
    shown = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return fit(Image.fromarray(shown.astype(np.uint8)), (SIDE, SIDE))


def prepare(image: Image.Image) -> Tensor:
    """Convert an image to MNIST's form: the drawing fits 20x20, with its centre of mass in the middle of 28x28.

    An image in MNIST's form is only made greyscale and, if faint, brightened. Raises ImageError for a blank one.

    Args:
        image: In mode L, RGB or RGBA, dark on light or light on dark; transparent pixels are background.

    Returns:
        The digit, (28, 28) uint8, light on dark.
    """
    pixels = grey(image)
    if 0 in image.size or np.ptp(pixels) < 255 * CONTRAST:
        raise ImageError("nothing is drawn on the image")
    if pixels.max() < 250:  # MNIST's digits reach at least 254
        pixels = pixels * (255 / pixels.max())
    if pixels.shape != (SIDE, SIDE) or not is_mnists(pixels):
        pixels = centred(fitted(drawing(pixels)))
    return torch.from_numpy(pixels.round().astype(np.uint8))


def is_mnists(pixels: Pixels) -> bool:
    """Whether a 28x28 image is light on dark, and either over 20 pixels long or centred by mass and at least 18."""
    edge = np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])
    spans = [np.ptp(np.flatnonzero((pixels > 32).any(axis))) + 1 for axis in (0, 1)]
    off = max(abs(centre - SIDE / 2) for centre in ndimage.center_of_mass(pixels))
    return bool(np.median(edge) < 64 and (max(spans) > BOX or (max(spans) >= BOX - 2 and off <= 0.6)))


def grey(image: Image.Image) -> Pixels:
    """Brightness, or a colour channel with over 1.5 times the contrast: (H, W) float32 in [0, 255]."""
    pixels = np.asarray(image, np.float32)  # (H, W) or (H, W, 3) or (H, W, 4)
    if image.mode == "RGBA":  # on white, or on black if the drawing is light
        drawn = np.asarray(image.convert("RGB").convert("L"))[pixels[..., 3] > pixels[..., 3].max() / 2]
        background = Image.new("RGBA", image.size, "black" if drawn.min(initial=255) > 127 else "white")
        image = Image.alpha_composite(background, image).convert("RGB")
        pixels = np.asarray(image, np.float32)
    if pixels.ndim == 2:
        return pixels
    brightness, contrast = np.asarray(image.convert("L"), np.float32), pixels.std(axis=(0, 1))
    return pixels[..., contrast.argmax()] if contrast.max() > 1.5 * brightness.std() else brightness


def drawing(pixels: Pixels) -> Pixels:
    """Separate strokes from the background: (H, W) in [0, 255] -> [0, 1], 1 for a full stroke; or ImageError."""
    background = _background(pixels).clip(1)
    is_light = ((pixels - background) ** 3).sum() > 0  # skewness: strokes deviate to one side, noise to both
    # Shade darkens paper and pen by the same factor; on a dark background the difference is constant.
    depth = (pixels - background) / 255 if is_light else 1 - pixels / background
    deepest, noise = depth.max(), np.median(abs(np.diff(depth.ravel())))  # close to its standard deviation
    noise = noise if pixels.size > SIDE**2 else 0  # in a smaller image, most pixels may be strokes
    if deepest < max(5 * noise, CONTRAST):
        raise ImageError("nothing is drawn on the image")
    strokes = _digit(depth > np.percentile(depth[depth > deepest / 2], 90) / 2)
    full = np.percentile(depth[strokes], 90)  # depth of a pixel that a stroke covers entirely
    strokes = ndimage.binary_dilation(strokes, iterations=math.ceil(math.sqrt(pixels.size) / 100))  # include soft edges
    return np.where(strokes, ((depth - 2 * noise) / (full - 2 * noise)).clip(0, 1), 0).astype(np.float32)


def _background(pixels: Pixels) -> Pixels:
    """Brightness of the empty background: a smooth surface fitted to most pixels, (H, W)."""
    height, width = (min(side, 64) for side in pixels.shape)
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)).ravel()
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    powers = polyvander2d(y.ravel(), x.ravel(), [2, 2])  # (height * width, 9)
    off = abs(small - np.median(small))
    for _ in range(6):  # each time without outliers, such as strokes
        near = off <= max(4 * np.median(off), 2)
        factors = np.linalg.lstsq(powers[near], small[near], rcond=1e-6)[0]
        off = abs(small - powers @ factors)
    y, x = (np.linspace(-1, 1, side) for side in pixels.shape)
    return np.asarray(polygrid2d(y, x, factors.reshape(3, 3)), np.float32)


def _digit(strokes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove specks and, if enough remains, a frame or the strokes that touch the edge: (H, W) -> the same shape."""
    strokes = np.pad(strokes, 1)
    parts, _ = ndimage.label(strokes, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # background
    spans = np.array([0, *(max(side.stop - side.start for side in box) for box in ndimage.find_objects(parts))])
    backgrounds, _ = ndimage.label(~strokes)
    outside = ndimage.binary_dilation(backgrounds == backgrounds[0, 0], np.ones((3, 3)))
    framed = sizes.copy()
    framed[parts[outside]] = 0  # a part that touches the outer background is not inside a frame
    inner = sizes.copy()
    inner[np.concatenate([parts[[1, -2]].ravel(), parts[:, [1, -2]].ravel()])] = 0
    if spans[framed > 0].max(initial=0) >= 0.2 * spans.max():
        sizes = framed
    elif inner.max() >= sizes.max() / 5:
        sizes = inner
    return np.asarray((sizes >= sizes.max() / 20)[parts[1:-1, 1:-1]])


def fitted(drawn: Pixels) -> Pixels:
    """Resize a drawing in [0, 1] to a longer side of 20, with thin strokes widened: (20, w) or (h, 20) in [0, 255]."""
    rows, columns = (np.flatnonzero((drawn > 0.1).any(axis)) for axis in (1, 0))
    drawn = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(BOX * side / max(drawn.shape))) for side in drawn.shape)
    fine = np.asarray(Image.fromarray(drawn).resize((FINE * width, FINE * height), Image.Resampling.BICUBIC))
    inside = ndimage.distance_transform_edt(np.pad(fine > 0.5, 1))
    missing = FINE * PEN - 4 * inside[inside > 0].mean()  # in a stroke of width w the mean distance is w / 4
    if missing > FINE / 2 and max(drawn.shape) > 2 * BOX:  # a smaller drawing may be one of MNIST's
        outside = ndimage.distance_transform_edt(np.pad(fine < 0.5, math.ceil(missing / 2), constant_values=True))
        drawn = (missing / 2 + 1 - outside).clip(0, 1).astype(np.float32)
    return np.asarray(Image.fromarray(255 * drawn).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 255)


def centred(small: Pixels) -> Pixels:
    """Place a small drawing with its centre of mass in the middle: (h, w) -> (28, 28), in [0, 255]."""
    canvas = np.pad(small, SIDE)  # with room for the shift
    top, left = (round(centre - SIDE / 2) for centre in ndimage.center_of_mass(canvas))
    return canvas[top : top + SIDE, left : left + SIDE]
