"""Print the lowest versions that the ranges in pyproject.toml allow, as constraints for pip."""

import tomllib
from pathlib import Path

with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
    requirements = tomllib.load(file)["project"]["dependencies"]
print("\n".join(requirement.replace(">=", "==") for requirement in requirements))
