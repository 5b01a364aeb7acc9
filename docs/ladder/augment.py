"""Draws augment.png: images and what RandomWarp makes of them."""

from pathlib import Path

import numpy as np
import torch

from lit_mnist import MNISTDataModule
from lit_mnist.augment import RandomWarp
from lit_mnist.data import rescale
from lit_mnist.views.figures import new_figure, save

COLUMNS = 13  # the image itself and twelve of its forms

if __name__ == "__main__":
    data = MNISTDataModule()
    data.setup("test")
    torch.manual_seed(0)
    figure, axes = new_figure(9, 3, rows=4, columns=1)
    warps = RandomWarp(12, 12, 0.12, 2), RandomWarp(12, 12, 0.12, 2, elastic=0.7)
    rows = [(image, warp) for warp in warps for image in rescale(data.splits["test"][0][[18, 2]])]
    for one, (image, warp) in zip(axes, rows, strict=True):
        forms = torch.cat([image[None], warp(image.expand(COLUMNS - 1, 28, 28))])  # (13, 28, 28)
        one.imshow(np.hstack(list(forms.numpy())), cmap="gray_r", vmin=0, vmax=1)
        one.axvline(27.5, color="#d95f02", linewidth=2)
        one.set_axis_off()
    save(figure, Path(__file__).with_suffix(".png"))
