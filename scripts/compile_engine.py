"""hatchling's build hook: compiles the engine's C files into one library of the package."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("router/engine/tap.c", "router/engine/statistics.c")
LIBRARY = "router/engine/_compiled.so"


class CompileEngine(BuildHookInterface):  # type: ignore[misc]  # hatchling comes without types
    """Makes the wheel one for this platform; without a compiler it stays pure Python."""

    PLUGIN_NAME = "custom"

    # The signature is hatchling's.
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile before the files are packed."""
        if self.target_name != "wheel":
            return
        compiler = shlex.split(os.environ.get("CC", "cc"))
        options = ("-O2", "-Wno-psabi", "-shared", "-fPIC")  # vectors are passed between no files
        command = [*compiler, *options, "-o", LIBRARY, *SOURCES, "-lm"]
        try:
            subprocess.run(command, cwd=self.root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"the engine will do more in Python, and be slower: {error}", file=sys.stderr)
            (Path(self.root) / LIBRARY).unlink(missing_ok=True)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
