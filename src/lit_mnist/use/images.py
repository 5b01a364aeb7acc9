"""Image files of any kind, made into what the network knows: digits of 28x28, light on dark, as MNIST has them."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_mnist.use.image_files import ImageError

if TYPE_CHECKING:
    from PIL import Image

CONTRAST = 0.03  # of the full range; with less there is nothing that an eye would see
EDGE = 0.1  # fainter than that is no part of a digit's size
BOX, SIDE = 20, 28  # MNIST's digits fill the first, centred in the second
LONGEST = 2000  # pixels; a drawing that is longer is reduced, since making it thicker takes the square of its length

Pixels = NDArray[np.float32]


def prepare(image: "Image.Image") -> Tensor:
    """Make an image what MNIST's are: the drawing in a box of 20x20, its centre of mass in the middle of 28x28.

    An image of 28x28 that is light on dark already is only made grey.

    Args:
        image: Of any size and mode, dark on light or light on dark; what is transparent counts as ground.

    Returns:
        The digit, (28, 28) uint8, light on dark.

    Raises:
        ImageError: Nothing is drawn on the image.
    """
    if not image.width * image.height or np.ptp(pixels := grey(image)) < 255 * CONTRAST:
        raise ImageError("nothing is drawn on the image")
    if not _is_in_form(pixels):
        pixels = centred(fitted(cropped(drawing(pixels))))
    return torch.from_numpy(pixels.round().astype(np.uint8))


def _is_in_form(pixels: Pixels) -> bool:
    """Whether an image is of MNIST's size and light on dark."""
    edge = np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])
    return pixels.shape == (SIDE, SIDE) and bool(np.median(edge) < pixels.max() / 4)


def grey(image: "Image.Image") -> Pixels:
    """Brightness of an image, (H, W) float32 in [0, 255]; H and W are smaller than the image's where it is large.

    Of a coloured image it is the brightness or, where the drawing stands out more in it, one of red, green and blue.
    """
    if image.mode == "F":
        return _scaled(np.asarray(image))
    if image.mode == "RGBA":
        image = _on_ground(image)
    pixels = np.asarray(image, np.float32)  # (H, W) or (H, W, 3)
    if pixels.ndim == 2:
        return pixels
    brightness = np.asarray(image.convert("L"), np.float32)
    contrast = pixels.std(axis=(0, 1))
    return pixels[..., contrast.argmax()] if contrast.max() > 1.5 * brightness.std() else brightness


def _scaled(pixels: Pixels) -> Pixels:
    """Numbers of any range in [0, 255], by the smallest of the usual depths that holds them; none is clipped."""
    pixels = pixels - min(pixels.min(), 0)
    depths = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))
    return pixels * (255 / next((depth for depth in depths if pixels.max() <= depth), pixels.max()))


def _on_ground(image: "Image.Image") -> "Image.Image":
    """A transparent image on white or, where all that is drawn is light, on black."""
    from PIL import Image

    alpha = np.asarray(image.getchannel("A"))
    drawn = np.asarray(image.convert("RGB").convert("L"))[alpha > alpha.max() / 2]
    ground = "black" if drawn.min(initial=255) > 127 else "white"
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")


def drawing(pixels: Pixels) -> Pixels:
    """What is drawn, without the ground: (H, W) in [0, 255] -> (H, W) from 0, the ground, to 1.

    Raises:
        ImageError: Nothing stands out from the noise.
    """
    from scipy import ndimage

    pixels = ndimage.gaussian_filter(pixels, math.sqrt(pixels.size) / 800)  # takes noise, but no stroke
    ground = _ground(pixels).clip(1)
    # In logarithms light and shade lie alike around the ground, and strokes far from it on their own side.
    off = np.log((pixels + 30) / (ground + 30))
    is_light = (off * off * off).sum() > 0
    # A shade takes the same share from paper and pen; on a dark ground it is the difference that stays.
    depth = (pixels - ground) / 255 if is_light else 1 - pixels / ground
    deepest = depth.max()
    noise = np.median(abs(np.diff(depth.ravel())))  # close to its standard deviation
    if deepest < max(5 * noise, CONTRAST):
        raise ImageError("nothing is drawn on the image")
    strokes = _digit(depth > np.percentile(depth[depth > deepest / 2], 90) / 2)
    deep = np.percentile(depth[strokes], 90)
    full = max(deep - 1.3 * noise, deep / 2)  # where a stroke covers the whole pixel, without the noise
    low = np.clip(3 * noise, 0.002, 0.4 * full)
    strokes = ndimage.binary_dilation(strokes, iterations=math.ceil(math.sqrt(pixels.size) / 100))  # with soft edges
    return np.where(strokes, ((depth - low) / (full - low)).clip(0, 1), 0).astype(np.float32)


def _ground(pixels: Pixels) -> Pixels:
    """Brightness that each pixel would have with nothing drawn on it: a quadratic surface through the frame, (H, W)."""
    height, width = pixels.shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    terms = [np.ones_like(x), x, y, x * x, x * y, y * y]
    frame = np.ones(pixels.shape, bool)
    thick = max(1, min(height, width) // 20)
    frame[thick:-thick, thick:-thick] = False
    some = np.random.default_rng(0).permutation(np.flatnonzero(frame))[:4000]  # are enough
    points = np.stack([np.broadcast_to(term, pixels.shape).flat[some] for term in terms], axis=1)  # (N, 6)
    values = pixels.flat[some]  # (N,)
    off = abs(values - np.median(values))
    for _ in range(4):  # each time without what lies far off, such as a stroke that touches the frame
        near = off <= max(2.5 * 1.5 * np.median(off), 2)
        factors = np.linalg.lstsq(points[near], values[near], rcond=1e-6)[0]
        off = abs(values - points @ factors)
    ground: Pixels = sum(factor * term for factor, term in zip(factors, terms, strict=True))
    return ground


def _digit(strokes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The strokes without specks and, where others remain, without what reaches in from the frame, (H, W)."""
    from scipy import ndimage

    parts, _ = ndimage.label(strokes, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # of what is no stroke
    inner = sizes.copy()
    inner[parts[[0, -1]]] = 0
    inner[parts[:, [0, -1]]] = 0
    if inner.max() >= sizes.max() / 5:
        sizes = inner
    whole: NDArray[np.bool_] = (sizes >= sizes.max() / 20)[parts]
    return whole


def cropped(drawn: Pixels) -> Pixels:
    """The smallest rectangle with all that is drawn, thin strokes made as thick as MNIST's thin ones."""
    from PIL import Image
    from scipy import ndimage

    rows, columns = (np.flatnonzero((drawn > EDGE).any(axis)) for axis in (1, 0))
    drawn = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if max(drawn.shape) > LONGEST:
        size = [max(1, round(side * LONGEST / max(drawn.shape))) for side in reversed(drawn.shape)]
        drawn = np.asarray(Image.fromarray(drawn).resize((size[0], size[1]), Image.Resampling.BOX))
    strokes = np.pad(drawn > 0.5, 1)
    outline = strokes & ~ndimage.binary_erosion(strokes)
    missing = 2.4 * max(drawn.shape) / BOX - 2 * strokes.sum() / outline.sum()
    if missing < 1:
        return drawn
    margin = math.ceil(missing / 2)
    distance = ndimage.distance_transform_edt(np.pad(drawn < 0.5, margin, constant_values=True))
    thick: Pixels = (missing / 2 + 1 - distance).clip(0, 1).astype(np.float32)
    return thick


def fitted(drawn: Pixels) -> Pixels:
    """A drawing in [0, 1], scaled to a longer side of 20: (H, W) -> (20, w) or (h, 20), in [0, 255]."""
    from PIL import Image

    height, width = (max(1, round(BOX * side / max(drawn.shape))) for side in drawn.shape)
    method = Image.Resampling.BOX if max(drawn.shape) > BOX else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(drawn * 255).resize((width, height), method)).clip(0, 255)


def centred(small: Pixels) -> Pixels:
    """A small drawing with its centre of mass in the middle: (h, w) -> (28, 28), in [0, 255]."""
    from scipy import ndimage

    top, left = (round(SIDE / 2 - centre) for centre in ndimage.center_of_mass(small))
    canvas = np.zeros((SIDE + 2 * BOX, SIDE + 2 * BOX), np.float32)  # with room for what the shift takes outside
    canvas[BOX + top :, BOX + left :][: small.shape[0], : small.shape[1]] = small
    return canvas[BOX:-BOX, BOX:-BOX]
