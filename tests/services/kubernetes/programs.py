"""Kubernetes' own programs, built from Debian's source package: Debian has binaries of just its client."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from services.packages import cache, made_once, need_programs, only_suite, output

_VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
_GO = Path("/usr/lib/go-1.19/bin")
# What kr8s reads of the API server, and servers tell of the built-in kinds since Kubernetes 1.27.
_INSTALLER = "staging/src/k8s.io/apiserver/pkg/endpoints/installer.go"
_BEFORE = "\tapiResource.Verbs = make([]string, 0, len(kubeVerbs))"
_SINGULAR = "\tif !isSubresource {\n\t\tapiResource.SingularName = strings.ToLower(apiResource.Kind)\n\t}\n"


def programs_of_kubernetes() -> Path:
    """The folder of Kubernetes' programs, built if they are not there yet: some 14 minutes of one core.

    Raises FetchFailed if they cannot be.
    """
    return made_once(cache() / "kubernetes" / _VERSION, _build)


def _build(target: Path) -> None:
    need_programs(str(_GO / "go"), "make", "rsync", "patch", "dpkg-source")
    work = target.with_name("build")
    apt = work / "apt"
    apt.mkdir(parents=True)
    source_packages = only_suite(apt, "bookworm", sources=True)
    output("apt-get", "source", "-qq", "kubernetes", cwd=work, **source_packages)
    (source,) = work.glob("kubernetes-*/")
    _change(source, work)
    # Go looks for a package's sources below the name by which others import it.
    named = work / "go" / "src" / "k8s.io" / "kubernetes"
    named.parent.mkdir(parents=True)
    named.symlink_to(source)
    version = work / "version"
    major, minor, _ = _VERSION.split(".")
    version.write_text(
        f"KUBE_GIT_COMMIT='unknown'\nKUBE_GIT_TREE_STATE='archive'\nKUBE_GIT_VERSION='v{_VERSION}'\n"
        f"KUBE_GIT_MAJOR='{major}'\nKUBE_GIT_MINOR='{minor}'\n"
    )
    environment = {
        "PATH": f"{_GO}:{os.environ['PATH']}",
        "PWD": str(named),
        "HOME": str(work),
        "GOPATH": str(work / "go"),
        "GO111MODULE": "auto",
        "GOPROXY": "off",
        "GOLDFLAGS": "-s -w",
        "CGO_ENABLED": "0",
        "KUBE_GIT_VERSION_FILE": str(version),
    }
    # By way of the shell, which goes by the name of the folder and not by what it is a link to.
    what = " ".join(f"cmd/{program}" for program in PROGRAMS)
    output("sh", "-c", f"cd '{named}' && exec nice make WHAT='{what}'", **environment)
    for program in PROGRAMS:
        shutil.copy2(source / "_output" / "bin" / program, target / program)


def _change(source: Path, work: Path) -> None:
    """The two changes without which this version does not run today."""
    # Programs of Go 1.18 and later crash with the copy that Kubernetes brings of this library.
    binary_packages = only_suite(work / "library", "bookworm")
    output("apt-get", "download", "-qq", "golang-github-modern-go-reflect2-dev", cwd=work, **binary_packages)
    (package,) = work.glob("golang-github-modern-go-reflect2-dev_*.deb")
    output("dpkg-deb", "-x", package, work / "reflect2")
    name = "github.com/modern-go/reflect2"
    vendored, newer = source / "vendor" / name, work / "reflect2" / "usr/share/gocode/src" / name
    for pattern in ("*.go", "*.s"):
        for file in vendored.glob(pattern):
            file.unlink()
        for file in newer.glob(pattern):
            shutil.copy2(file, vendored / file.name)
    installer = source / _INSTALLER
    text = installer.read_text()
    assert text.count(_BEFORE) == 1
    installer.write_text(text.replace(_BEFORE, _SINGULAR + _BEFORE))
