from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from surgeline import config
from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.errors import ConfigError

PIPELINE_FILE = """\
pipeconfig:
  xvfb_run: true
  logging:
    level: info
  dask:
    tier0futures: true
    autostart: true
    host: 0.0.0.0
    dashboard_address: ":8787"
    clustertype: slurm
    n_workers: 6
    jobqueue:
      slurm:
        cores: 8
        processes: 8
        memory: 120GB
        queue: batch
        walltime: "240:00:00"
        job_extra_directives: ["--exclusive"]
      htcondor:
        cores: 1
        memory: 16GB
        disk: 1GB
casaconfig:
  logfile: casa.log
  nogui: true
"""


class Layers:
    """The two files that a user may write, and everything that is laid over them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.workdir = folder / "work"
        self.of_user = self.home / ".casa" / "config.yaml"
        self.of_workdir = self.workdir / "config.yaml"
        self.of_user.parent.mkdir(parents=True)
        self.workdir.mkdir()

    def load(self, *overrides: str, **environment: str) -> Configuration:
        return config.load(self.workdir, overrides, environment, self.home)

    def origin(self, loaded: Configuration, name: str) -> str:
        return next(value.origin for value in loaded.values if ".".join(value.key) == name)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def refused(layers: Layers, *overrides: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        layers.load(*overrides, **environment)
    return str(caught.value)


def test_without_files_the_packaged_defaults_hold_and_are_told_as_such(layers: Layers) -> None:
    loaded = layers.load()
    assert loaded.settings.backend == "auto"
    assert loaded.settings.dask.n_workers == "auto"
    assert loaded.settings.clusters["local"].type == "local"
    line = config.PACKAGED.read_text().splitlines().index("  n_workers: auto") + 1
    assert layers.origin(loaded, "dask.n_workers") == f"{config.PACKAGED}:{line}"
    assert {value.origin.rpartition(":")[0] for value in loaded.values} == {str(config.PACKAGED)}


def test_the_nearest_layer_wins_key_by_key(layers: Layers) -> None:
    layers.of_user.write_text("dask:\n  n_workers: 2\n  retries: 7\nworker: {threads: 3}\n")
    layers.of_workdir.write_text("# of this session\ndask:\n  n_workers: 3\n")
    loaded = layers.load()
    assert loaded.settings.dask.n_workers == 3
    assert loaded.settings.dask.retries == 7
    assert loaded.settings.worker.threads == 3
    assert loaded.settings.dask.start_timeout == 120
    assert layers.origin(loaded, "dask.n_workers") == f"{layers.of_workdir}:3"
    assert layers.origin(loaded, "dask.retries") == f"{layers.of_user}:3"
    assert layers.origin(loaded, "worker.threads") == f"{layers.of_user}:4"


def test_environment_wins_over_files_and_overrides_over_all(layers: Layers) -> None:
    layers.of_workdir.write_text("dask: {n_workers: 3, retries: 5}\n")
    loaded = layers.load(SURGELINE__DASK__N_WORKERS="4")
    assert loaded.settings.dask.n_workers == 4
    assert loaded.settings.dask.retries == 5
    assert layers.origin(loaded, "dask.n_workers") == "environment SURGELINE__DASK__N_WORKERS"
    loaded = layers.load("dask.n_workers=5", "worker.memory=2GB", SURGELINE__DASK__N_WORKERS="4")
    assert loaded.settings.dask.n_workers == 5
    assert loaded.settings.worker.memory == "2GB"
    assert layers.origin(loaded, "dask.n_workers") == "--set dask.n_workers=5"


def test_a_mapping_given_whole_is_merged_key_by_key_too(layers: Layers) -> None:
    layers.of_workdir.write_text("dask: {retries: 7}\n")
    loaded = layers.load("dask={n_workers: 5}", SURGELINE__WORKER="{threads: 2}")
    assert (loaded.settings.dask.n_workers, loaded.settings.dask.retries) == (5, 7)
    assert loaded.settings.worker.threads == 2
    assert layers.origin(loaded, "dask.n_workers") == "--set dask={n_workers: 5}"
    assert "'measurespath'" in refused(layers, "casaconfig={measurepath: /data}")


def test_a_list_is_replaced_whole(layers: Layers) -> None:
    layers.of_user.write_text("casaconfig:\n  datapath: [/data/a, /data/b]\n  logfile: /data/log\n")
    layers.of_workdir.write_text("casaconfig:\n  datapath: [/data/c]\n")
    assert layers.load().settings.casaconfig == {"datapath": ["/data/c"], "logfile": "/data/log"}


@pytest.mark.parametrize("nothing", ["dask:\n", "dask: {}\n", "dask:\n  # n_workers: 4\n", "# nothing\n", ""])
def test_a_section_that_says_nothing_changes_nothing(layers: Layers, nothing: str) -> None:
    layers.of_user.write_text("dask: {retries: 7}\n")
    layers.of_workdir.write_text(nothing)
    loaded = layers.load()
    assert loaded.settings.dask.retries == 7
    assert loaded.settings.dask.cluster == "local"


def test_named_clusters_keep_the_keys_of_their_type_and_are_merged_too(layers: Layers) -> None:
    layers.of_user.write_text("clusters:\n  batch: {type: slurm, queue: long, n_workers: 20}\n")
    layers.of_workdir.write_text("clusters:\n  batch: {queue: short}\n  two: {type: local, n_workers: 2}\n")
    loaded = layers.load("dask.cluster=two")
    batch = loaded.settings.clusters["batch"]
    assert (batch.type, batch.n_workers, batch.model_extra) == ("slurm", 20, {"queue": "short"})
    assert set(loaded.settings.clusters) == {"local", "batch", "two"}
    assert local.plan(loaded, "two").workers == 2


def test_an_unknown_key_names_file_line_and_the_nearest(layers: Layers) -> None:
    layers.of_workdir.write_text("backend: dask\ndask:\n  host: 127.0.0.1\n  n_wrokers: 4\n")
    message = refused(layers)
    assert f"{layers.of_workdir}:4" in message
    assert "'dask.n_wrokers'" in message
    assert "'n_workers'" in message


def test_an_unknown_section_and_unknown_keys_from_elsewhere_are_told_with_their_origin(layers: Layers) -> None:
    layers.of_user.write_text("\ndsak: {n_workers: 4}\n")
    message = refused(layers)
    assert f"{layers.of_user}:2" in message
    assert "'dask'" in message
    layers.of_user.unlink()
    assert "environment SURGELINE__DASK__RETIRES" in refused(layers, SURGELINE__DASK__RETIRES="1")
    assert "--set worker.thread=2" in refused(layers, "worker.thread=2")


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("dask: {n_workers: many}", "dask.n_workers", "integer"),
        ("dask: {n_workers: 0}", "dask.n_workers", "greater than 0"),
        ("dask: {start_timeout: soon}", "dask.start_timeout", "number"),
        ("dask: [1, 2]", "dask", "mapping"),
        ("backend: threads", "backend", "'serial'"),
        ("session: {weblog: perhaps}", "session.weblog", "boolean"),
        ("clusters: {batch: {type: slrum}}", "clusters.batch.type", "'slurm'"),
        ("clusters: {batch: {n_workers: 2}}", "clusters.batch.type", "missing"),
    ],
)
def test_a_wrong_value_names_its_origin_and_what_it_should_be(
    layers: Layers, text: str, key: str, reason: str
) -> None:
    layers.of_workdir.write_text(text + "\n")
    message = refused(layers)
    assert f"{layers.of_workdir}:1" in message
    assert key in message
    assert reason in message


def test_an_amount_of_memory_that_is_none_is_told_before_any_worker_starts(layers: Layers) -> None:
    layers.of_workdir.write_text("worker:\n  memory: lots\n")
    with pytest.raises(ConfigError) as caught:
        local.plan(layers.load(), "local")
    assert f"{layers.of_workdir}:2" in str(caught.value)
    assert "'lots'" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"dask: [1\n",
        b"a:\tb: c\n",
        b"\xff\xfe\x00",
        b"- a\n- b\n",
        b"just words\n",
        b"dask: {host: !!python/object:os.system x}\n",
        b"dask: {host: 2024-99-99}\n",
    ],
)
def test_what_is_no_configuration_names_the_file_and_the_way_out(layers: Layers, content: bytes) -> None:
    layers.of_workdir.write_bytes(content)
    message = refused(layers)
    assert str(layers.of_workdir) in message
    assert "surgeline config init" in message


def test_what_cannot_be_parsed_outside_files_is_told_too(layers: Layers) -> None:
    assert "SURGELINE__DASK__HOST" in refused(layers, SURGELINE__DASK__HOST="[")
    assert "KEY=VALUE" in refused(layers, "dask.n_workers")


def test_a_default_cluster_that_there_is_not_names_those_that_there_are(layers: Layers) -> None:
    layers.of_workdir.write_text("dask: {cluster: bach}\nclusters: {batch: {type: local}}\n")
    message = refused(layers)
    assert f"{layers.of_workdir}:1" in message
    assert "'bach'" in message
    assert "'batch'" in message


def test_a_file_of_the_casa_pipeline_is_understood_as_it_stands(layers: Layers) -> None:
    layers.of_user.write_text(PIPELINE_FILE)
    loaded = layers.load()
    settings = loaded.settings
    assert settings.backend == "dask"
    assert (settings.dask.cluster, settings.dask.n_workers) == ("slurm", 6)
    assert (settings.dask.host, settings.dask.dashboard_address) == ("0.0.0.0", ":8787")
    assert settings.clusters["slurm"].model_extra == {
        "cores": 8,
        "processes": 8,
        "memory": "120GB",
        "queue": "batch",
        "walltime": "240:00:00",
        "job_extra_directives": ["--exclusive"],
    }
    assert settings.clusters["htcondor"].type == "htcondor"
    assert settings.casaconfig == {"logfile": "casa.log", "nogui": True}
    line = PIPELINE_FILE.splitlines().index("    n_workers: 6") + 1
    assert layers.origin(loaded, "dask.n_workers") == f"{layers.of_user}:{line}"
    # What means nothing here is not lost silently.
    assert {".".join(value.key) for value in loaded.ignored} == {"pipeconfig.xvfb_run", "pipeconfig.logging.level"}


@pytest.mark.parametrize("switch", ["tier0futures", "autostart"])
def test_a_casa_pipeline_that_does_not_use_dask_runs_serially(layers: Layers, switch: str) -> None:
    layers.of_user.write_text(PIPELINE_FILE.replace(f"{switch}: true", f"{switch}: false"))
    assert layers.load().settings.backend == "serial"


def test_a_casa_pipelines_empty_choices_leave_the_defaults(layers: Layers) -> None:
    layers.of_user.write_text("pipeconfig: {dask: {clustertype: null, n_workers: null, autostart: true}}\n")
    settings = layers.load().settings
    assert (settings.dask.cluster, settings.dask.n_workers) == ("local", "auto")


def test_a_misspelt_key_of_the_casa_pipeline_is_told(layers: Layers) -> None:
    layers.of_user.write_text("pipeconfig:\n  dask:\n    tier0future: true\n")
    message = refused(layers)
    assert f"{layers.of_user}:3" in message
    assert "'tier0futures'" in message


def test_an_unknown_key_of_casaconfig_is_told_and_a_known_one_is_kept(layers: Layers) -> None:
    layers.of_workdir.write_text("casaconfig:\n  measurepath: /data\n")
    message = refused(layers)
    assert f"{layers.of_workdir}:2" in message
    assert "'measurespath'" in message
    layers.of_workdir.write_text("casaconfig:\n  measurespath: /data\n")
    assert layers.load().settings.casaconfig == {"measurespath": "/data"}


def test_the_template_changes_nothing_until_it_is_uncommented_and_is_valid_then(layers: Layers) -> None:
    template = config.commented_template()
    assert all(line.startswith("#") or not line for line in template.splitlines())
    layers.of_workdir.write_text(template)
    assert layers.load().settings == config.load(environment={}, home=layers.home).settings
    # A line that is a key, or an explanation of one that stands inside a section, loses its comment sign.
    uncommented = re.sub(r"(?m)^# (?=\s*[a-z_]+:(\s|$)|  +#)", "", template)
    assert set(yaml.safe_load(uncommented)) == set(yaml.safe_load(config.PACKAGED.read_text()))
    layers.of_workdir.write_text(uncommented)
    loaded = layers.load()
    assert loaded.settings == config.load(environment={}, home=layers.home).settings
    assert layers.origin(loaded, "dask.n_workers").startswith(str(layers.of_workdir))


def test_every_setting_is_explained_in_the_packaged_file() -> None:
    packaged = yaml.safe_load(config.PACKAGED.read_text())
    for name, field in config.Settings.model_fields.items():
        assert name in packaged
        sections = getattr(field.annotation, "model_fields", {})
        assert set(sections) <= set(packaged[name] or {}), name
    lines = config.PACKAGED.read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"\s*[a-z_]+: \S", line) and not line.strip().startswith("type:"):
            assert before.lstrip().startswith("#"), line
