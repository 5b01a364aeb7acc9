"""Augmentation of whole batches on their device: random affine and elastic distortion of each image."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomWarp(nn.Module):
    """Random affine and elastic distortion of each image: Simard et al., 2003, "Best practices for CNNs".

    Both are applied in one resampling; pixels from outside the image are 0, the background.

    Args:
        rotation: Largest rotation to either side, in degrees.
        shear: Largest slant to either side, in degrees.
        scale: Largest relative change of width and of height, drawn independently, in [0, 1).
        shift: Largest shift in each direction, in pixels.
        elastic: Standard deviation of the elastic displacement, in pixels.
        smoothness: Standard deviation of the Gaussian that smooths the displacement, in pixels, at least 2.
        interpolation: Bilinear blurs, so that images without augmentation look sharper; bicubic blurs less.
    """

    def __init__(
        self,
        rotation: float = 15.0,
        shear: float = 15.0,
        scale: float = 0.15,
        shift: float = 2.0,
        elastic: float = 0.0,
        smoothness: float = 4.0,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        for name, value in (("rotation", rotation), ("shear", shear), ("shift", shift), ("elastic", elastic)):
            if value < 0:
                raise ValueError(f"{name}: {value} is not at least 0")
        if not 0 <= scale < 1:
            raise ValueError(f"scale: {scale} is not in [0, 1)")
        if smoothness < 2:
            raise ValueError(f"smoothness: {smoothness} is not at least 2")
        super().__init__()
        self.rotation, self.shear, self.scale, self.shift = rotation, shear, scale, shift
        self.elastic, self.smoothness, self.interpolation = elastic, smoothness, interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Distort a batch: (B, H, W) or (B, C, H, W) in [0, 1] -> the same shape and range."""
        where = self._affine(images)  # source point (x, y) of each pixel: (B, 2, H, W)
        if self.elastic:
            where = where + self._bend(images)
        planes = images if images.ndim == 4 else images.unsqueeze(1)  # (B, C, H, W)
        warped = F.grid_sample(planes, where.permute(0, 2, 3, 1), mode=self.interpolation, align_corners=False)
        return warped.clamp(0, 1).view_as(images)  # bicubic interpolation overshoots

    def _affine(self, images: Tensor) -> Tensor:
        """Source points under a random affine map of each image, in units of half an image: (B, 2, H, W)."""
        rows, columns = images.shape[-2:]
        most = [math.radians(self.rotation), math.tan(math.radians(self.shear)), self.scale, self.scale]
        most += [2 * self.shift / columns, 2 * self.shift / rows]
        drawn = images.new_empty(6, len(images)).uniform_(-1, 1)
        angle, shear, width, height, right, down = drawn * drawn.new_tensor(most)[:, None]  # each (B,)
        sin, cos, width, height = angle.sin(), angle.cos(), 1 / (1 + width), 1 / (1 + height)
        across = [width * cos, width * (shear * cos - sin) * (rows / columns), right]
        along = [height * sin * (columns / rows), height * (shear * sin + cos), down]
        maps = torch.stack([*across, *along], dim=1).view(-1, 3)  # (2B, 3)
        y, x = ((2 * images.new_tensor(range(side)) + 1) / side - 1 for side in (rows, columns))  # centres in -1..1
        y, x = torch.meshgrid(y, x, indexing="ij")
        points = torch.stack([x.flatten(), y.flatten(), torch.ones_like(x).flatten()])  # (3, H * W)
        return (maps @ points).view(-1, 2, rows, columns)  # F.affine_grid takes ten times as long on a CPU

    def _bend(self, images: Tensor) -> Tensor:
        """Smooth random displacements, in units of half an image: (B, 2, H, W)."""
        y, x = (self._gaussian(images, side) for side in images.shape[-2:])
        noise = images.new_empty(len(images), 2, x.shape[1], y.shape[1]).normal_()
        bends: Tensor = (noise @ y.T).mT @ x.T  # along either side, (B, 2, H, W) in pixels
        sides = images.new_tensor([len(x), len(y)])[:, None, None]
        return bends * (2 * self.elastic / sides)

    def _gaussian(self, images: Tensor, side: int) -> Tensor:
        """Weight of the noise at every second pixel for each pixel of a side: (side, (side + 1) // 2)."""
        distance = images.new_tensor(range(side))[:, None] - images.new_tensor(range(0, side, 2))
        gaussian = torch.exp(-(distance**2) / (2 * self.smoothness**2))
        return F.normalize(gaussian, dim=1)  # so that sums of unit noise have unit variance
