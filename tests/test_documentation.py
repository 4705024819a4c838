"""What the documentation says is so: its links, its commands, its configurations and its examples."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from typer.main import get_command

import surgeline as package
from support import ROOT, install, surgeline
from surgeline import config
from surgeline.cli.commands import app
from surgeline.clusters.batch import settings_of
from surgeline.clusters.htcondor import HTCondorSettings
from surgeline.clusters.kubernetes import KubernetesSettings
from surgeline.clusters.settings import SurgeSettings
from surgeline.clusters.slurm import SlurmSettings
from surgeline.clusters.workpool import WorkPoolSettings
from surgeline.simulate import Simulation, simulate
from surgeline.workflow import recipe as recipes

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What is read where the repository is shown has links, commands and configurations, too.
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
EXAMPLES = ROOT / "examples"
CLUSTERS: Sequence[type[SurgeSettings]] = (SlurmSettings, HTCondorSettings, KubernetesSettings, WorkPoolSettings)
# Keys that clusters of a type have to have, which pages do not repeat in every excerpt.
NEEDED = {"kubernetes": {"image": "casa:1"}, "prefect": {"work_pool": "astro"}}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page that are in a language, but for files that are shown there as they are."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith("--8<--")]


# The pages as they are built


class Page(HTMLParser):
    """A page's anchors, what it links to, and what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(named["href"])
        elif "src" in named:
            self.fetched.append(named["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as `make docs` builds it."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'surgeline[docs]'")
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: warnings that are not told are not counted by --strict either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_and_anchor_resolves(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            # What nobody finds says where to go from the site's root, wherever that is.
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {parts.fragment}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_reading_a_page_fetches_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    elsewhere = [link for page in pages.values() for link in page.fetched if urlsplit(link).netloc]
    sheets = [match for sheet in site.rglob("*.css") for match in re.findall(r"url\(.?https?:", sheet.read_text())]
    assert (elsewhere, sheets) == ([], [])


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the pages are served: a browser searches them only there."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt-get install chromium)")
def test_a_browser_shows_a_page_without_complaint(address: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # What a page asks of another machine fails, which the console tells.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom",
            f"{address}/reference/stages.html",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "threshold_sigma" in done.stdout


def test_the_reference_has_all_that_there_is(site: Path) -> None:
    def text(page: str) -> str:
        return (site / "reference" / f"{page}.html").read_text()

    commands, configuration, python = text("commands"), text("configuration"), text("python")
    assert all(f"surgeline {name}" in commands for name in leaves(get_command(app)))
    keys = {key for model in CLUSTERS for key in model.model_fields} | set(config.Settings.model_fields)
    assert [key for key in keys if not re.search(rf"\b{key}\b", configuration)] == []
    assert [name for name in package.__all__ if f"surgeline.{name}" not in python] == []


def leaves(command: Any, within: str = "") -> Iterator[str]:
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from leaves(inner, f"{name} ")
        else:
            yield f"{within}{name}"


def test_every_page_is_in_the_navigation_once() -> None:
    def paths(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from paths(inner)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(paths(navigation)) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_to_files_of_the_repository_resolve(path: Path) -> None:
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
    assert [link for link in linked if link and "://" not in link and not (path.parent / link).exists()] == []


# What they say


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_command_lines_are_understood(path: Path) -> None:
    for block in blocks(path.read_text(), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            check_line(shlex.split(line, comments=True))


def check_line(words: list[str]) -> None:
    """That a command of ours parses, a target of make is one, and files of the repository are there."""
    if not words:
        return
    if Path(words[0]).name == "surgeline":
        check_command(words[1:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    for word in words[1:]:
        if word.startswith("surgeline "):
            check_line(shlex.split(word))
        elif word.startswith(("examples/", "docker/", "./examples/")):
            assert (ROOT / word).exists(), word


def check_command(arguments: Sequence[str]) -> None:
    """That there is such a command, with such arguments and options."""
    command, rest = get_command(app), list(arguments)
    while hasattr(command, "commands"):
        name, *rest = rest
        if name == "--help":
            return
        assert name in command.commands, f"surgeline has no command {name!r}: {arguments}"
        command = command.commands[name]
    command.make_context(name, list(rest))
    if "--" in rest:
        check_command(rest[rest.index("--") + 1 :])


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_configurations_and_recipes_are_understood(path: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(path.read_text(), "yaml")):
        content = yaml.safe_load(textwrap.dedent(block))
        if isinstance(content, list):
            content = {"stages": content}
        if "stages" in content:
            recipes.parse({"name": "shown", **content}, f"{name_of(path)}, block {number + 1}")
        elif set(content) <= set(config.Settings.model_fields):
            check_configuration(content, tmp_path / str(number))
        else:
            # An excerpt of a cluster.
            known = {key for model in CLUSTERS for key in model.model_fields}
            assert set(content) <= known, content


def check_configuration(content: dict[str, Any], folder: Path) -> None:
    for cluster in content.get("clusters", {}).values():
        for key, value in NEEDED.get(cluster["type"], {}).items():
            cluster.setdefault(key, value)
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    loaded = config.load(folder, environment={}, home=folder)
    for name, cluster in loaded.settings.clusters.items():
        if cluster.has_queue:
            settings_of(loaded, name, {})


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_keys_that_are_mentioned_exist(path: Path) -> None:
    sections = {name: field.annotation for name, field in config.Settings.model_fields.items()}
    files = {"db", "id", "py", "sh"}
    for section, key in re.findall(r"[`= ](\w+)\.(\w+)(?=[`=])", path.read_text()):
        known = getattr(sections.get(section), "model_fields", None)
        if known and key not in files:
            assert key in known, f"{section}.{key}"


# Examples


@pytest.fixture(scope="module")
def observation(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight antennas that are quite unlike each other."""
    path = tmp_path_factory.mktemp("observation") / "my.ms"
    unlike = Simulation(
        antennas=8, channels=4, target_scans=1, integration_seconds=30, gain_amplitude_scatter=0.3, noise_jy=0.1
    )
    simulate(path, unlike)
    return path


def test_a_stage_of_ones_own_is_a_package(observation: Path, tmp_path: Path) -> None:
    installed = install(EXAMPLES / "own-stage", tmp_path / "installed")
    recipe, workdir = EXAMPLES / "own-stage" / "recipe.yaml", tmp_path / "session"
    options = ("--vis", observation, "--workdir", workdir, "--set", "backend=serial")
    ran = surgeline("run", recipe, *options, PYTHONPATH=installed)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    kind = "odd_antennas.OddAntenna"
    shown = surgeline("context", "show", kind, "--json", "--workdir", workdir, PYTHONPATH=installed)
    ratios = {fact["body"]["name"]: fact["body"]["ratio"] for fact in json.loads(shown.stdout)}
    truth = json.loads(Path(f"{observation}.truth.json").read_text())["antennas"]
    gains = {antenna["name"]: sum(antenna["gain_amplitude"][0]) / 2 for antenna in truth}
    ranked = sorted(gains, key=gains.__getitem__)
    # The weakest and the strongest are found, and none whose amplitudes are not off by the recipe's factor.
    assert {ranked[0], ranked[-1]} <= set(ratios)
    assert ratios[ranked[0]] < 1 / 1.05
    assert ratios[ranked[-1]] > 1.05
    assert all(not 1 / 1.05 < ratio < 1.05 for ratio in ratios.values())
    pages = "".join(page.read_text() for page in (workdir / "weblog").glob("stage-*.html"))
    assert "odd antennas of" in pages


def test_jobs_of_ones_own_of_all_kinds(observation: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "own_jobs.py"), str(observation)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    # On the target, which is faint, gains that drift count for little beside the noise.
    assert float(said["noise of scan 3"]) == pytest.approx(0.1, rel=0.15)
    assert "'median'" in said["visstat"]
    assert re.fullmatch(r"HI survey: \d+ rows", said["Count"])
