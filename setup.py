"""Copies configs/ into a wheel, so that fit --config mlp needs no clone; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Build the package with the configs that lie at the top of the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "lit_mnist" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
