"""hatchling's build hook: compiles router/engine/tap.c into the package."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("router/engine/tap.c")
LIBRARY = Path("router/engine/_tap.so")


class CompileTap(BuildHookInterface):  # type: ignore[misc]  # hatchling comes without types
    """Makes the wheel one for this platform; without a compiler it stays pure Python."""

    PLUGIN_NAME = "custom"

    # The signature is hatchling's.
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile before the files are packed."""
        if self.target_name != "wheel":
            return
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(LIBRARY), str(SOURCE)]
        try:
            subprocess.run(command, cwd=self.root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"hidden states will be read in Python, more slowly: {error}", file=sys.stderr)
            (Path(self.root) / LIBRARY).unlink(missing_ok=True)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
