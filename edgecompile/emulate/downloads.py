"""Pinned files from the package registries, by their own clients; SHA-256 is checked here again."""
from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecompile import cache
from edgecompile.emulate.tools import need
from edgecompile.errors import BadInputError, MissingLibraryError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Download:
    """One file of a registry; `tags` are a wheel's platforms, empty for a source archive."""

    registry: Literal["pip", "npm"]
    name: str
    version: str
    file: str
    sha256: str
    tags: tuple[str, ...] = ()

    def command(self, folder: Path) -> list[str]:
        """The client's command that puts the file into `folder`."""
        if self.registry == "npm":
            pinned = f"{self.name}@{self.version}"
            return ["npm", "pack", pinned, "--silent", "--pack-destination", str(folder)]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        if self.tags:
            command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
            command += [word for tag in self.tags for word in ("--platform", tag)]
        else:
            command += ["--no-binary=:all:"]
        return [*command, f"{self.name}=={self.version}"]


def folder() -> Path:
    """Where files that somebody brought by hand are looked for first."""
    return cache.folder() / "downloads"


def fetch(download: Download, into: Path) -> Path:
    """The file, verified: from `folder()`, else from its registry into the folder `into`."""
    brought = folder() / download.file
    if brought.is_file():
        return _verified(brought, download)
    if download.registry == "npm":
        need("npm")
    command = download.command(into)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=into)
    file = into / download.file
    if done.returncode or not file.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise MissingLibraryError(
            f"{download.name} {download.version}",
            f"{download.registry} could not bring {download.file}: {said[-1] if said else ''}",
            "a network connection, once",
            f"connect, or put that file into {folder()}",
        )
    return _verified(file, download)


def _verified(file: Path, download: Download) -> Path:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != download.sha256:
        raise BadInputError(
            str(file), f"SHA-256 {digest.hexdigest()}", download.sha256, "remove it and try again"
        )
    return file


def unpack(file: Path, into: Path) -> None:
    """All of a wheel or tar archive into a folder that does not exist yet; links are refused."""
    if file.suffix == ".whl":
        shutil.unpack_archive(file, into, "zip")
        return
    import tarfile

    with tarfile.open(file) as archive:
        archive.extractall(into, filter="data")
