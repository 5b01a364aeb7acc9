"""The space of a search: options of a fit, and the values that each may take."""

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lit_mnist.errors import fail

Space = dict[str, Any]  # option -> what Optuna draws its values from


def read_space(path: Path) -> Space:
    """A YAML file of options: {low, high}, with log or step, or a list of values for each."""
    if not path.is_file():
        fail(f"--space: {path}: there is no such file")
    try:
        space = get_loader("yaml")(path.read_text())  # as for configs, so that 1e-4 is a number
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"--space: {path}: {error}")
    if not isinstance(space, dict) or not space:
        fail(f"--space: {path} names no option")
    return {str(name): distribution_of(str(name), values) for name, values in space.items()}


def distribution_of(name: str, values: Any) -> Any:
    """What Optuna draws an option from; values of a list are kept as JSON, since a storage takes no lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list) and values:
        return CategoricalDistribution([json.dumps(value) for value in values])
    if not isinstance(values, dict) or not {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
        fail(f"--space: {name}: {values} is neither a list of values nor {{low, high}}, with log or step")
    whole = all(isinstance(value, int) for value in values.values())
    try:
        return IntDistribution(**values) if whole else FloatDistribution(**values)
    except (TypeError, ValueError) as error:
        fail(f"--space: {name}: {error}")


def ends(distribution: Any) -> list[Any]:
    """The values of a list, or both ends of a range."""
    return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))


def point_of(space: Space, given: dict[str, Any]) -> dict[str, Any]:
    """Options that are given as the parameters of a trial; one that does not lie in the space is left out."""
    point: dict[str, Any] = {}
    for name, distribution in space.items():
        value, choices = given.get(name), getattr(distribution, "choices", None)
        if choices and json.dumps(value) in choices:
            point[name] = json.dumps(value)
        elif not choices and isinstance(value, int | float) and distribution.low <= value <= distribution.high:
            point[name] = value
    return point


def options(point: dict[str, Any]) -> list[str]:
    """The parameters of a trial as options of the command line; numbers have six digits."""
    words = []
    for name, value in point.items():
        if isinstance(value, float):
            value = json.dumps(float(f"{value:.6g}"))
        elif isinstance(value, str) and isinstance(json.loads(value), str):
            value = json.loads(value)
        words.append(f"--{name}={value}")
    return words
