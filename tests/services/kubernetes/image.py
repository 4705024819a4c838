"""The image of docker/Dockerfile, made without Docker: the same settings, on the environment in which tests run.

An image is folders that lie one upon the other. Those of Debian and of the environment's libraries (some 3 GB) are in
the cache folder and are used there as they are; only Surgeline's own code is copied for each cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
from importlib.metadata import distributions
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from services.packages import FetchFailed, cache, made_once, mirror, need_programs, output
from support import ROOT

WORKER_IMAGE = "localhost/surgeline-worker:test"
PAUSE_IMAGE = "localhost/pause:test"
_PACKAGES = "python3,python3-distutils,ca-certificates,libstdc++6,libgomp1,libquadmath0,zlib1g"
# Where docker/Dockerfile has the environment.
_PREFIX = Path("/opt/surgeline")
_USER = "surgeline:x:1000:1000::/scratch:/bin/sh"
_LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


def layers() -> list[Path]:
    """The folders of the image's lower layers, lowest first, made if they are not there yet.

    Raises FetchFailed if they cannot be.
    """
    folder = cache() / "kubernetes"
    versions = sorted(f"{found.name}=={found.version}" for found in distributions() if found.name != "surgeline")
    recipe = [sys.version, sys.base_prefix, *versions, Path(__file__).read_text(), _site_configuration().read_text()]
    name = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]
    debian = made_once(folder / f"debian-{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:8]}", _make_debian)
    environment = made_once(folder / f"environment-{name}", _make_environment)
    os.utime(environment)
    _remove_unused(folder)
    return [debian, environment]


def _remove_unused(folder: Path) -> None:
    """Remove the environments that nobody has used for a day: each has gigabytes."""
    for environment in folder.glob("environment-*/"):
        if environment.stat().st_mtime < time.time() - 24 * 3600:
            shutil.rmtree(environment)


def _make_debian(tree: Path) -> None:
    need_programs("debootstrap")
    output("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", tree, mirror())
    shutil.rmtree(tree / "var/cache/apt/archives")
    shutil.rmtree(tree / "var/lib/apt/lists")
    # Mounted in every container.
    for folder in ("dev", "proc", "sys"):
        shutil.rmtree(tree / folder)
        (tree / folder).mkdir()
    with (tree / "etc/passwd").open("a") as users, (tree / "etc/group").open("a") as groups:
        users.write(f"{_USER}\n")
        groups.write("surgeline:x:1000:\n")
    (tree / "scratch").mkdir()
    os.chown(tree / "scratch", 1000, 1000)


def _make_environment(tree: Path) -> None:
    if sys.prefix == sys.base_prefix:
        raise FetchFailed("the tests' Python is not that of a virtual environment")
    if sys.base_prefix == "/usr":
        if sys.version_info[:2] != (3, 11):
            raise FetchFailed("the Python of /usr is not that of Debian 12, 3.11")
    else:
        _copy_interpreter(tree)
    prefix = _inside(tree, _PREFIX)
    own = shutil.ignore_patterns("surgeline", "surgeline-*", "__editable__*")
    shutil.copytree(sys.prefix, prefix, symlinks=True, ignore=own, dirs_exist_ok=True)
    for script in (prefix / "bin").iterdir():
        _name_its_interpreter(script)
    site = _inside(tree, Path("/opt/casa"))
    shutil.copy2(_site_configuration(), site)


def _copy_interpreter(tree: Path) -> None:
    """Copy the environment's Python to where it is on this machine; Debian's has brought the libraries for it."""
    source, target = Path(sys.base_prefix), _inside(tree, Path(sys.base_prefix))
    name = Path(_LIBRARY).name
    needless = shutil.ignore_patterns("site-packages", "test", "idlelib", "config-*", "__pycache__")
    shutil.copytree(source / _LIBRARY, target / _LIBRARY, symlinks=True, ignore=needless)
    for library in (source / "lib").glob("libpython3*.so*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    (target / "bin").mkdir()
    shutil.copy2(source / "bin" / name, target / "bin" / name)
    (target / "bin" / "python3").symlink_to(name)


def make_own_layer(tree: Path) -> None:
    """Copy Surgeline's own code."""
    package = find_spec("surgeline")
    assert package is not None and package.origin is not None
    libraries = _inside(tree, _PREFIX / _LIBRARY / "site-packages")
    shutil.copytree(Path(package.origin).parent, libraries / "surgeline")
    (described,) = Path(sys.prefix, _LIBRARY, "site-packages").glob("surgeline-*.dist-info")
    shutil.copytree(described, libraries / described.name)
    script = _inside(tree, _PREFIX / "bin") / "surgeline"
    shutil.copy2(Path(sys.prefix, "bin", "surgeline"), script)
    _name_its_interpreter(script)


def write_archive(path: Path, name: str, digests: list[str], configuration: dict[str, object]) -> None:
    """Write an image's archive (of the OCI layout) without its layers, that are there already by their digests."""
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": configuration,
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    blobs: list[bytes] = []

    def blob(kind: str, content: object) -> dict[str, object]:
        blobs.append(json.dumps(content).encode())
        digest = f"sha256:{hashlib.sha256(blobs[-1]).hexdigest()}"
        return {"mediaType": f"application/vnd.oci.image.{kind}+json", "digest": digest, "size": len(blobs[-1])}

    layer = "application/vnd.oci.image.layer.v1.tar"
    manifest = blob(
        "manifest.v1",
        {
            "schemaVersion": 2,
            "config": blob("config.v1", image),
            "layers": [{"mediaType": layer, "digest": digest, "size": 0} for digest in digests],
        },
    )
    manifest["annotations"] = {"io.containerd.image.name": name}
    files = {f"blobs/sha256/{hashlib.sha256(content).hexdigest()}": content for content in blobs}
    files["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    with tarfile.open(path, "w") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def configuration_of_dockerfile() -> dict[str, object]:
    """What docker/Dockerfile says of how the image runs, as an image's archive has it."""
    lines = [line.partition(" ") for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines()]
    found = {key: value for key, _, value in lines if key in ("USER", "WORKDIR")}
    return {
        "Env": [value for key, _, value in lines if key == "ENV"],
        "User": found["USER"],
        "WorkingDir": found["WORKDIR"],
        "Cmd": ["python"],
    }


def _site_configuration() -> Path:
    return ROOT / "docker" / "casasiteconfig.py"


def _inside(tree: Path, path: Path) -> Path:
    """A folder of the image, which other users may enter."""
    folder = tree
    folder.chmod(0o755)
    for part in path.relative_to("/").parts:
        folder /= part
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    return folder


def _name_its_interpreter(script: Path) -> None:
    """Have a script of the environment run by the interpreter of the image."""
    if script.is_symlink() or not script.is_file():
        return
    content = script.read_bytes()
    if content.startswith(b"#!"):
        script.write_bytes(content.replace(sys.prefix.encode(), str(_PREFIX).encode(), 1))
