"""The space of a search: options of a fit and their possible values."""

import json
import warnings
from pathlib import Path
from typing import Any

from lit_mnist.errors import fail
from lit_mnist.runs.folder import read_yaml

Space = dict[str, Any]  # option -> {low, high} with optional log or step, or a list of values in JSON


def read_space(path: Path) -> Space:
    """Read a YAML file of options; each has a list of values, or {low, high} with optional log or step."""
    from optuna.trial import FixedTrial

    space = read_yaml(path)
    if not isinstance(space, dict) or not space:
        fail(f"--space: {path} names no option")
    space = {str(name).lstrip("-"): values for name, values in space.items()}
    for name, values in space.items():
        if isinstance(values, list):
            space[name] = values = [*map(json.dumps, values)]
        is_range = isinstance(values, dict) and {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}
        is_range = is_range and isinstance(values.get("log", True), bool)
        if not (values if isinstance(values, list) else is_range):
            why = "is neither a list nor {low, high} with optional log or step; write full names, e.g. data.batch_size"
            fail(f"--space: {name}: {values} {why}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Optuna warns if the step does not divide the range
                draw(FixedTrial({name: ends(values)[0]}), {name: values})
        except (TypeError, ValueError, UserWarning) as error:
            fail(f"--space: {name}: {error}")
    return space


def kind_of(values: dict[str, Any]) -> type[int] | type[float]:
    """Type of the values in a range: int if all its numbers are integers."""
    return int if all(isinstance(value, int) for value in values.values()) else float


def ends(values: Any) -> list[Any]:
    """All values of a list, or both ends of a range."""
    return values if isinstance(values, list) else [kind_of(values)(values[end]) for end in ("low", "high")]


def draw(trial: Any, space: Space) -> None:
    """Sample a value for each option that has none in this trial of Optuna."""
    for name, values in space.items():
        if isinstance(values, list):
            trial.suggest_categorical(name, values)
        else:
            getattr(trial, f"suggest_{kind_of(values).__name__}")(name, **values)


def point_of(space: Space, given: dict[str, Any]) -> dict[str, Any]:
    """Given options as the parameters of a trial; a value outside the space is omitted."""
    point: dict[str, Any] = {}
    for name, values in space.items():
        value = given.get(name)
        if isinstance(values, list) and json.dumps(value) in values:
            point[name] = json.dumps(value)
        elif isinstance(values, dict) and isinstance(value, int | float) and values["low"] <= value <= values["high"]:
            steps = (value - values["low"]) / values.get("step", 1)
            if abs(steps - round(steps)) < 1e-9 or (kind_of(values) is float and "step" not in values):
                point[name] = value
    return point


def of_floats(space: Space, given: dict[str, Any]) -> Space:
    """Make a range one of floats if the given value is a float, such as {low: 0, high: 1} for a dropout of 0.0."""
    floats = {name for name, of in space.items() if isinstance(of, dict) and isinstance(given.get(name), float)}
    return {name: {**of, "low": float(of["low"])} if name in floats else of for name, of in space.items()}


def options(point: dict[str, Any]) -> list[str]:
    """The parameters of a trial as options of the command line; floats have six significant digits."""
    words = []
    for name, value in point.items():
        if isinstance(value, float):
            value = json.dumps(float(f"{value:.6g}"))
        elif isinstance(value, str) and isinstance(json.loads(value), str):
            value = json.loads(value)
        words.append(f"--{name}={value}")
    return words
