"""Image files of any kind become what MNIST's images are, or get one line that says why not."""

import io
import os
import random
import runpy
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont
from scipy import ndimage

from lit_mnist import MNISTDataModule
from lit_mnist.image_files import ImageError, load_image
from lit_mnist.use.images import preparation, prepare

Digit = NDArray[np.uint8]  # (28, 28), light on dark
ONE_LINE = r"\A[^\n]+\Z"
photo = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "preparation.py"))["photo"]


# Files that are difficult, but show a digit


def drawn(digit: Digit, width: int = 200, height: int = 150, side: int = 110, left: int = 50, top: int = 10) -> Any:
    """A digit enlarged and placed on a larger canvas: (height, width) float64, 0 where nothing is drawn, to 1."""
    canvas = Image.new("L", (width, height))
    canvas.paste(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return ((np.asarray(canvas, float) / 255 - 0.2) * 2).clip(0, 1)


def grey(brightness: Any) -> Image.Image:
    return Image.fromarray(brightness.clip(0, 255).astype(np.uint8))


def dark_on_light(digit: Digit, **options: int) -> Image.Image:
    return grey(255 - 255 * drawn(digit, **options))


def colours(digit: Digit, ground: tuple[int, int, int], pen: tuple[int, int, int]) -> Image.Image:
    share = drawn(digit)[..., None]
    return Image.fromarray((np.array(ground) * (1 - share) + np.array(pen) * share).astype(np.uint8))


def see_through(digit: Digit, pen: str) -> Image.Image:
    image = Image.new("RGBA", (200, 150), pen)
    image.putalpha(grey(255 * drawn(digit)))
    return image


def sticker(digit: Digit) -> Image.Image:
    """A dark digit on a white sheet that is transparent around it."""
    image = Image.new("RGBA", (300, 250), (90, 90, 90, 0))
    image.paste(dark_on_light(digit).convert("RGBA"), (50, 50))
    return image


def shaded(digit: Digit, ground: float, pen: float, noise: float = 6, **options: int) -> Any:
    """A digit under light that falls to less than half from corner to corner, with noise."""
    brightness = ground + (pen - ground) * drawn(digit, **options)
    y, x = (np.linspace(0, 1, size) for size in brightness.shape)
    light = 1 - 0.3 * y[:, None] - 0.3 * x
    return grey(brightness * light + np.random.default_rng(0).normal(0, noise, brightness.shape))


def lines(digit: Digit) -> Image.Image:
    """A digit on squared paper."""
    paper = np.ones((150, 200))
    paper[7::15] = 0.8
    paper[:, 7::15] = 0.8
    return grey(230 * paper * (1 - 0.8 * drawn(digit)))


def specks(digit: Digit) -> Image.Image:
    brightness, chance = 255 - 255 * drawn(digit), np.random.default_rng(0).random((150, 200))
    return grey(np.where(chance < 0.003, 0, np.where(chance > 0.997, 255, brightness)))


def wider(digit: Digit, by: int) -> Image.Image:
    """A digit written with a thicker or, where ``by`` is below 0, a thinner pen."""
    size, share = (abs(by) * 2 + 1,) * 2, drawn(digit, 400, 300, 250, 80, 20)
    share = ndimage.grey_dilation(share, size) if by > 0 else ndimage.grey_erosion(share, size)
    return grey(255 - 255 * share)


def lab(digit: Digit) -> Image.Image:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), inMode="RGB", outMode="LAB"
    )
    image = ImageCms.applyTransform(dark_on_light(digit).convert("RGB"), to_lab)
    assert image is not None
    return image


def numbers(digit: Digit, kind: str, highest: float) -> Image.Image:
    return Image.fromarray(((1 - drawn(digit)) * highest).astype(kind))


def no_numbers(digit: Digit) -> Image.Image:
    """An image of floats in which the strokes are not a number and a corner is infinite."""
    brightness = np.where(drawn(digit) > 0.5, np.nan, 1).astype(np.float32)
    brightness[-1, -1] = np.inf
    return Image.fromarray(brightness)


def shown(make: Callable[[Digit], Image.Image], **options: Any) -> Callable[[Digit, Path], None]:
    return lambda digit, path: make(digit).save(path, **options)


def pages(digit: Digit, path: Path) -> None:
    """A file of two frames, of which the second is another."""
    dark_on_light(digit).save(path, save_all=True, append_images=[Image.new("L", (200, 150), 255)])


def turned(orientation: int, **options: Any) -> Callable[[Digit, Path], None]:
    """A file whose EXIF data says how to turn it upright."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpositions of Pillow that undo it

    def write(digit: Digit, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = dark_on_light(digit)
        method = back.get(orientation)
        (image if method is None else image.transpose(Image.Transpose(method))).save(path, exif=exif, **options)

    return write


DIFFICULT: dict[str, Callable[[Digit, Path], None]] = {
    # as MNIST has it
    "28x28.png": shown(Image.fromarray),
    "28x28_rgb.png": shown(lambda digit: Image.fromarray(digit).convert("RGB")),
    "28x28_palette.gif": shown(lambda digit: Image.fromarray(digit).convert("P")),
    "28x28_16_bit.png": shown(lambda digit: Image.fromarray(digit.astype(np.uint16) * 257)),
    "28x28.bmp": shown(Image.fromarray),
    "28x28_opaque.png": shown(lambda digit: Image.fromarray(digit).convert("RGBA")),
    "28x28_inverted.png": shown(lambda digit: Image.fromarray(255 - digit)),
    "28x28_inverted.jpg": shown(lambda digit: Image.fromarray(255 - digit), quality=60),
    # formats and names
    "dark.png": shown(dark_on_light),
    "dark.jpg": shown(dark_on_light),
    "dark.bmp": shown(dark_on_light),
    "dark.tif": shown(dark_on_light, compression="tiff_lzw"),
    "dark.webp": shown(dark_on_light),
    "dark.gif": shown(dark_on_light),
    "progressive.jpeg": shown(dark_on_light, progressive=True),
    "interlaced.PNG": shown(dark_on_light),
    "jpeg_named.png": shown(dark_on_light, format="JPEG"),
    "no_suffix": shown(dark_on_light, format="PNG"),
    "two_frames.gif": pages,
    "two_pages.tiff": pages,
    "animated.webp": pages,
    # light and colours
    "light.png": shown(lambda digit: grey(255 * drawn(digit))),
    "red_on_green_of_the_same_brightness.png": shown(lambda digit: colours(digit, (0, 128, 0), (251, 0, 0))),
    "yellow_on_white.png": shown(lambda digit: colours(digit, (255, 255, 255), (255, 240, 0))),
    "blue_on_black.png": shown(lambda digit: colours(digit, (0, 0, 0), (0, 0, 255))),
    "white_on_blue.jpg": shown(lambda digit: colours(digit, (20, 40, 200), (255, 255, 255))),
    "faint.png": shown(lambda digit: grey(200 - 25 * drawn(digit))),
    # modes
    "1_bit.png": shown(lambda digit: dark_on_light(digit).convert("1", dither=Image.Dither.NONE)),
    "1_bit.tif": shown(lambda digit: dark_on_light(digit).convert("1"), compression="group4"),
    "palette.png": shown(lambda digit: colours(digit, (250, 240, 200), (90, 20, 20)).convert("P")),
    "palette_of_4.png": shown(lambda digit: dark_on_light(digit).quantize(4)),
    "cmyk.jpg": shown(lambda digit: dark_on_light(digit).convert("CMYK")),
    "cmyk.tif": shown(lambda digit: dark_on_light(digit).convert("CMYK")),
    "ycbcr.tif": shown(lambda digit: dark_on_light(digit).convert("YCbCr"), compression="jpeg"),
    "lab.tif": shown(lab),
    "16_bit.png": shown(lambda digit: numbers(digit, "uint16", 65535)),
    "16_bit_but_dark.png": shown(lambda digit: numbers(digit, "uint16", 5000)),
    "12_of_16_bit.tif": shown(lambda digit: numbers(digit, "uint16", 4095)),
    "16_bit_big_endian.tif": shown(
        lambda digit: Image.frombytes("I;16B", (200, 150), ((1 - drawn(digit)) * 65535).astype(">u2").tobytes())
    ),
    "32_bit.tif": shown(lambda digit: numbers(digit, "int32", 2_000_000_000)),
    "below_0.tif": shown(lambda digit: Image.fromarray((-1000 * drawn(digit)).astype(np.int32))),
    "float_to_1.tif": shown(lambda digit: numbers(digit, "float32", 1)),
    "float_to_255.tif": shown(lambda digit: numbers(digit, "float32", 255)),
    "not_a_number.tif": shown(no_numbers),
    # transparent
    "black_on_nothing.png": shown(lambda digit: see_through(digit, "black")),
    "white_on_nothing.png": shown(lambda digit: see_through(digit, "white")),
    "white_on_nothing.webp": shown(lambda digit: see_through(digit, "white"), lossless=True),
    "yellow_on_nothing.png": shown(lambda digit: see_through(digit, "yellow")),
    "grey_and_alpha.png": shown(lambda digit: see_through(digit, "#222").convert("LA")),
    "palette_and_alpha.png": shown(lambda digit: see_through(digit, "navy").quantize(32)),
    "transparent_colour.png": shown(lambda digit: grey(255 * (drawn(digit) < 0.5)), transparency=255),
    "transparent_colour.gif": shown(lambda digit: see_through(digit, "black")),
    "sticker.png": shown(sticker),
    # EXIF
    **{f"exif_{orientation}.jpg": turned(orientation) for orientation in range(1, 9)},
    "exif_6.png": turned(6),
    "exif_8.webp": turned(8),
    "exif_3.tif": turned(3),
    # light, noise, pens, sizes
    "photo_1.jpg": shown(lambda digit: photo(digit, np.random.default_rng(1)), quality=80),
    "photo_2.jpg": shown(lambda digit: photo(digit, np.random.default_rng(2)), quality=80),
    "photo_3.png": shown(lambda digit: photo(digit, np.random.default_rng(3))),
    "shaded.jpg": shown(lambda digit: shaded(digit, 240, 50)),
    "pencil.jpg": shown(lambda digit: shaded(digit, 230, 150)),
    "chalk.jpg": shown(lambda digit: shaded(digit, 60, 220)),
    "night.jpg": shown(lambda digit: shaded(digit, 60, 10, 2)),
    "noise.png": shown(lambda digit: shaded(digit, 240, 90, 25, width=400, height=300, side=250, left=60, top=20)),
    "specks.png": shown(specks),
    "squared_paper.png": shown(lines),
    "thick.png": shown(lambda digit: wider(digit, 6)),
    "thin.png": shown(lambda digit: wider(digit, -5)),
    "small.png": shown(lambda digit: grey(255.0 - digit).resize((16, 16), Image.Resampling.BOX)),
    "small_in_large.png": shown(lambda digit: dark_on_light(digit, width=1200, height=900, side=90, left=900, top=700)),
    "12_megapixels.jpg": shown(
        lambda digit: shaded(digit, 230, 60, width=400, height=300, left=200, top=120).resize((4000, 3000))
    ),
    "very_wide.png": shown(lambda digit: dark_on_light(digit, width=3000, height=60, side=50, left=2000, top=5)),
    "very_high.png": shown(lambda digit: dark_on_light(digit, width=60, height=3000, side=50, left=5, top=90)),
    "no_margin.png": shown(lambda digit: dark_on_light(digit, width=100, height=100, side=140, left=-20, top=-20)),
}


# Files that show none

CUT_OFF = "the image is damaged or cut off"
NO_IMAGE = "the file is not an image in a supported format: PNG, JPEG, BMP, TIFF, WEBP, GIF"
TOO_LARGE = "the image has more than 50 megapixels; scale it down"
NOTHING = "nothing is drawn on the image"


def half(format: str) -> bytes:
    file = io.BytesIO()
    chance = np.random.default_rng(0).integers(0, 256, (100, 100, 3))
    Image.fromarray(chance.astype(np.uint8)).save(file, format)
    return file.getvalue()[: len(file.getvalue()) // 2]


def bomb(side: int) -> bytes:
    """A PNG file of a few bytes that asks for side x side pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", NO_IMAGE),
    "empty": (b"", NO_IMAGE),
    "text.png": (b"a drawing of a seven\n", NO_IMAGE),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", NO_IMAGE),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NO_IMAGE),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", NO_IMAGE),
    **{f"cut_off.{name.lower()}": (half(name), CUT_OFF) for name in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")},
    "bomb.png": (bomb(50_000), TOO_LARGE),
    "small_bomb.png": (bomb(10_000), TOO_LARGE),
    "white.png": (png(Image.new("L", (300, 200), 255)), NOTHING),
    "black_28x28.png": (png(Image.new("L", (28, 28))), NOTHING),
    "nearly_black_28x28.png": (png(Image.fromarray(np.eye(28, dtype=np.uint8))), NOTHING),
    "green.png": (png(Image.new("RGB", (30, 40), "green")), NOTHING),
    "transparent.png": (png(Image.new("RGBA", (30, 40), (0, 0, 0, 0))), NOTHING),
    "one_pixel.png": (png(Image.new("L", (1, 1), 77)), NOTHING),
    "only_noise.png": (png(grey(np.random.default_rng(0).normal(128, 20, (200, 300)))), NOTHING),
    "only_shade.png": (png(grey(np.linspace(50, 250, 300) * np.ones((200, 1)))), NOTHING),
}


@pytest.fixture(scope="module")
def some() -> list[Digit]:
    """The digits 0 to 9 of a font, in MNIST's form: 20 pixels high and centred by mass."""
    digits = []
    for digit in range(10):
        image = Image.new("L", (84, 84))
        font = ImageFont.load_default(66)
        ImageDraw.Draw(image).text((42, 42), str(digit), 255, font, anchor="mm", stroke_width=3)
        image = image.crop(image.getbbox())
        small = np.asarray(image.resize((max(1, round(20 * image.width / image.height)), 20)))
        canvas = np.pad(small, 28)
        top, left = (round(centre - 14) for centre in ndimage.center_of_mass(canvas))
        digits.append(canvas[top : top + 28, left : left + 28])
    return digits


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of two images' pixels where they lie over each other best, as a share of the first's mean."""
    moved = [other.roll((down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(float((one.float() - each).abs().mean() / one.float().mean()) for each in moved)


@pytest.mark.parametrize("name", DIFFICULT)
@pytest.mark.filterwarnings("error")
def test_a_difficult_file_becomes_a_digit_of_mnists_form(name: str, some: list[Digit], tmp_path: Path) -> None:
    for digit in (some[2], some[7]):
        DIFFICULT[name](digit, tmp_path / name)
        image = prepare(load_image(tmp_path / name))
        assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
        if name.startswith("28x28") and "inverted" not in name:
            assert torch.equal(image, torch.tensor(digit))
            continue
        rows, columns = (image > 0).any(1).nonzero(), (image > 0).any(0).nonzero()
        assert max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1 == 20
        assert all(abs(centre - 14) <= 0.5 + 1e-6 for centre in ndimage.center_of_mass(image.numpy()))
        assert image.max() >= 220
        clean = prepare(dark_on_light(digit))
        if not name.startswith(("thick", "thin", "no_margin", "small.")):
            assert difference(clean, image) < 0.3, difference(clean, image)


def test_whatever_is_28x28_light_on_dark_stays_as_it_is(mnist_dir: Path) -> None:
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    images, _ = data.splits["test"]
    for image in images:
        assert torch.equal(prepare(Image.fromarray(image.numpy())), image)


def placed(digit: Digit, side: int, corner: int, share: float = 1.0) -> Image.Image:
    """A 28x28 image whose digit has another size, place and brightness."""
    canvas = np.zeros((28, 28), np.uint8)
    small = Image.fromarray(digit[4:24, 4:24]).resize((side, side), Image.Resampling.LANCZOS)
    canvas[corner : corner + side, corner : corner + side] = np.asarray(small) * share
    return Image.fromarray(canvas)


def framed(digit: Digit, shape: str, side: int, margin: int) -> Image.Image:
    """A sheet of 200x200 with a digit and a line around it, as in a form or a sudoku."""
    image = Image.new("L", (200, 200), 255)
    image.paste(Image.fromarray(255 - digit).resize((side, side)), ((200 - side) // 2,) * 2)
    options = {"radius": 20} if shape == "rounded_rectangle" else {}
    corners = (margin, margin, 199 - margin, 199 - margin)
    getattr(ImageDraw.Draw(image), shape)(corners, outline=0, width=6, **options)
    return image


def on_two_papers(digit: Digit) -> Image.Image:
    """Dark on light, where a third of the page is lighter still: most pixels that stand out are of that paper."""
    page = np.full((200, 200), 190, np.float32)
    page[:60] += 30
    page[70:190, 40:160] -= np.asarray(Image.fromarray(digit).resize((120, 120)), np.float32) * (120 / 255)
    return Image.fromarray(page.astype(np.uint8))


def floats(scale: float, shift: float) -> Callable[[Digit], Image.Image]:
    def image(digit: Digit) -> Image.Image:
        file = io.BytesIO()
        Image.fromarray((digit / 255 * scale + shift).astype(np.float32)).save(file, "TIFF")
        return load_image(file)

    return image


ODD: dict[str, Callable[[Digit], Image.Image]] = {
    **{f"faint, {share}": lambda digit, share=share: placed(digit, 20, 4, share) for share in (0.1, 0.3, 0.5)},
    "small": lambda digit: placed(digit, 10, 9),
    "small and faint": lambda digit: placed(digit, 14, 7, 0.3),
    "in a corner": lambda digit: placed(digit, 14, 0),
    "off centre": lambda digit: placed(digit, 20, 8),
    "a little off centre": lambda digit: placed(digit, 18, 3),
    "on two papers": on_two_papers,
    "0 to 16": floats(16, 0),
    "standardised": floats(3.24, -0.42),
    "-1 to 1": floats(2, -1),
    "12x12": lambda digit: Image.fromarray(255 - digit).resize((12, 12)),
    **{
        f"{shape}, digit {side}, margin {margin}": lambda digit, f=(shape, side, margin): framed(digit, *f)
        for shape in ("rectangle", "rounded_rectangle", "ellipse")
        for side, margin in ((120, 20), (80, 0), (60, 4))
    },
}


@pytest.mark.parametrize("name", ODD)
def test_a_digit_that_is_faint_small_off_centre_or_framed_becomes_one_of_mnists_form(
    name: str, some: list[Digit]
) -> None:
    for digit in (some[2], some[4], some[7]):
        assert difference(torch.tensor(digit), prepare(ODD[name](digit))) < 0.5


def test_clothing_on_light_ground_becomes_light_on_dark_and_fills_28_pixels() -> None:
    shirt = np.full((300, 200, 3), 250, np.uint8)
    shirt[60:260, 50:150] = (120, 40, 60)
    image = preparation("fashion_mnist", (28, 28))(Image.fromarray(shirt))
    assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
    assert (image[:, 14] > 100).all()
    assert (image[14] > 100).sum() == 14
    assert image[14, 0] == 0


def test_an_image_of_any_other_data_set_is_scaled_and_padded_in_colour_or_grey() -> None:
    photo = Image.new("RGB", (40, 20), (0, 200, 100))
    image = preparation("pets", (3, 8, 8))(photo)
    assert image[:, 4, 4].tolist() == [0, 200, 100]
    assert image[:, 0, 0].tolist() == [0, 0, 0]
    assert preparation("pets", (8, 8))(photo)[4, 4] == preparation("pets", (1, 8, 8))(photo)[0, 4, 4] > 0


def test_a_hole_with_a_speck_in_it_is_no_frame(some: list[Digit]) -> None:
    zero = Image.fromarray(255 - some[0]).resize((200, 200))
    expected = prepare(zero)
    zero.putpixel((100, 100), 0)
    assert difference(expected, prepare(zero)) < 0.02


def test_inverted_images_of_mnist_come_back_nearly_as_they_were(mnist_dir: Path) -> None:
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    images, _ = data.splits["test"]
    errors = [difference(image, prepare(Image.fromarray(255 - image.numpy()))) for image in images[:300]]
    assert np.mean(errors) < 0.02
    assert np.median(errors) < 0.01


def test_a_thin_line_is_made_thicker_and_a_thick_one_stays(some: list[Digit]) -> None:
    thin, usual, thick = (
        float(prepare(wider(some[3], by)).float().mean()) / float(prepare(wider(some[3], 0)).float().mean())
        for by in (-7, 0, 6)
    )
    assert 0.5 < thin < usual < thick < 1.5


def test_a_digit_that_touches_the_edge_is_kept_and_a_shadow_from_the_edge_is_not(some: list[Digit]) -> None:
    brightness = 255 - 230 * drawn(some[5])
    clean = prepare(grey(brightness))
    brightness[:40, :40] = 60
    assert difference(clean, prepare(grey(brightness))) < 0.05
    assert difference(clean, prepare(dark_on_light(some[5], left=-12, top=-9))) < 0.3


def test_every_orientation_of_exif_gives_the_same_as_the_upright_image(some: list[Digit], tmp_path: Path) -> None:
    upright = prepare(dark_on_light(some[4]))
    for orientation in range(1, 9):
        turned(orientation, quality=95)(some[4], tmp_path / "x.jpg")
        assert difference(upright, prepare(load_image(tmp_path / "x.jpg"))) < 0.05
    for name in ("exif_6.png", "exif_8.webp", "exif_3.tif"):
        DIFFICULT[name](some[4], tmp_path / name)
        assert difference(upright, prepare(load_image(tmp_path / name))) < 0.15


def test_an_image_is_read_from_a_path_as_text_a_path_and_an_open_file(some: list[Digit], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    dark_on_light(some[1]).save(path)
    with path.open("rb") as file:
        sources: list[Any] = [path, str(path), file, io.BytesIO(path.read_bytes())]
        for source in sources:
            assert torch.equal(prepare(load_image(source)), prepare(dark_on_light(some[1])))


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_shows_no_digit_says_why_in_one_line(name: str, tmp_path: Path) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        with pytest.raises(ImageError, match=ONE_LINE) as caught:
            prepare(load_image(source))
        assert str(caught.value) == reason


def test_what_cannot_be_opened_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, reason in (
        ("none.png", "No such file or directory"),
        ("folder.png", "Is a directory"),
        ("loop.png", "Too many levels of symbolic links"),
        ("a" * 300, "File name too long"),
    ):
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert str(caught.value) == reason


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(Image.new("L", (9, 9))))
    (tmp_path / "secret.png").chmod(0)
    if os.access(tmp_path / "secret.png", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="Permission denied"):
        load_image(tmp_path / "secret.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damage that does not hinder it
def test_however_a_file_is_damaged_it_gives_a_digit_or_one_line(format: str, some: list[Digit]) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    dark_on_light(some[6], width=60, height=50, side=40, left=5, top=5).save(file, format, exif=exif)
    good, chance = file.getvalue(), random.Random(0)
    damaged = [good[: len(good) * i // 60] for i in range(60)]
    for _ in range(140):
        spoilt = bytearray(good)
        for _ in range(chance.choice([1, 3, 20])):
            spoilt[chance.randrange(min(len(good), chance.choice([60, 10**9])))] = chance.randrange(256)
        damaged.append(bytes(spoilt))
    reasons = []
    for content in damaged:
        try:
            image = prepare(load_image(io.BytesIO(content)))
        except ImageError as error:
            reasons.append(str(error))
        else:
            assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
    assert 20 < len(reasons) < 200
    assert all(len(reason.splitlines()) == 1 for reason in reasons)


@pytest.mark.filterwarnings("error")
def test_whatever_the_pixels_are_there_is_a_digit_or_one_line() -> None:
    chance = np.random.default_rng(0)
    seen, reasons = 0, set()
    for trial in range(400):
        height, width = chance.choice([1, 2, 3, 5, 19, 28, 29, 70], 2)
        pixels = chance.normal(chance.uniform(0, 255), chance.uniform(0, 80), (height, width))
        if trial % 3 == 1:
            pixels = 255.0 * (pixels > 128)
        if trial % 3 == 2:
            pixels = np.full((height, width), chance.uniform(0, 255))
            pixels[chance.integers(height), chance.integers(width)] = chance.uniform(0, 255)
        try:
            image = prepare(grey(pixels))
        except ImageError as error:
            reasons.add(str(error))
        else:
            assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
            assert image.max() > 0
            seen += 1
    assert 50 < seen < 350
    assert reasons == {NOTHING}
