"""A temporary environment on top of the running one: distributions installed into a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """Sees everything the running interpreter sees, and what is installed into `folder`."""

    folder: Path

    def install(self, project: Path) -> None:
        """Installs a project as pip does, entry points included; builds outside the source tree."""
        source = self.folder.parent / f"{project.name}-source"
        subprocess.run(["cp", "-r", str(project), str(source)], check=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", str(self.folder), str(source)], check=True)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the interpreter in this environment."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), **variables}
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
        )

    def prunekit(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line in this environment."""
        return self.python("-m", "prunekit.cli", *arguments, **variables)
