#!/usr/bin/env python3
"""Makes python:X-slim images on a machine that cannot pull them.

    python3 tests/engines/base_image.py 3.11 [3.9] [3.13]

3.9 is Debian 11, 3.11 Debian 12, 3.13 Debian 13: a root with Python, pip, venv and this machine's certificate
authorities, imported into the engine of COG_TEST_ENGINE, else DOCKER_HOST, else /var/run/docker.sock. What is there is
left alone. The roots are kept as tars under COG_TEST_CACHE (default /var/cache/cog-test). Needs root and debootstrap.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engines.api import Engine, EngineFailed, say  # noqa: E402

CACHE = Path(os.environ.get("COG_TEST_CACHE") or "/var/cache/cog-test")
SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
NOT_NEEDED = ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "usr/lib/python3*/EXTERNALLY-MANAGED")


def make_root_tar(version: str) -> Path:
    """The tar of a root with this Python, made once."""
    target = CACHE / f"python-{version}.tar"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    say(f"making a Debian {SUITES[version]} root with Python {version}")
    root = Path(tempfile.mkdtemp(dir=CACHE))
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITES[version], str(root)]
        run = subprocess.run(make, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True)
        if run.returncode:
            sys.exit("debootstrap failed:\n" + "\n".join(run.stdout.splitlines()[-5:]))
        if AUTHORITIES.exists():
            shutil.copyfile(AUTHORITIES, root / "etc/ssl/certs/ca-certificates.crt")
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for pattern in NOT_NEEDED:
            for path in root.glob(pattern):
                path.unlink()
        subprocess.run(["tar", "-C", str(root), "--one-file-system", "-cf", str(part), "."], check=True)
        part.rename(target)
    finally:
        shutil.rmtree(root)
        part.unlink(missing_ok=True)
    return target


def import_image(engine: Engine, version: str) -> None:
    """Make python:X-slim from the root."""
    changes = ['CMD ["python3"]', f"ENV PIP_CERT={AUTHORITIES}", f"ENV SSL_CERT_FILE={AUTHORITIES}"]
    query = {"fromSrc": "-", "repo": "python", "tag": f"{version}-slim", "changes": changes}
    with make_root_tar(version).open("rb") as tar:
        for _ in engine.stream("POST", "/images/create", query, tar):
            pass
    say(f"python:{version}-slim is there")


def main() -> None:
    versions = sys.argv[1:]
    if not versions or set(versions) - set(SUITES):
        sys.exit(__doc__)
    engine = Engine()
    for version in versions:
        if engine.image(f"python:{version}-slim") is None:
            import_image(engine, version)


if __name__ == "__main__":
    try:
        main()
    except (OSError, EngineFailed) as error:
        sys.exit(f"base_image.py: {error}")
