"""The tag of the wheel: kernels are for one version of Python, on Linux on x86-64."""

import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tag(BuildHookInterface[Any]):
    """Sets the tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say which Python the wheel is for."""
        build_data["pure_python"] = False
        build_data["tag"] = f"cp{sys.version_info.major}{sys.version_info.minor}-none-manylinux2014_x86_64"
