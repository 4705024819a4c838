"""A commented recipe for an observation, for people to edit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from surgeline.context.records import Observation
from surgeline.stages.inputs import find_input
from surgeline.stages.observation import read_observation
from surgeline.stages.roles import find_roles
from surgeline.stages.stage import find_stage
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.workflow import recipe as recipes

_EXPLAINED = {
    "import": "bring the data in as an MS, and decide what each field is for",
    "flag": "flag what is bad, and choose the reference antenna",
    "set_model": "set the model of the flux calibrator",
    "bandpass": "solve for the response over frequency",
    "gaincal": "solve for the gains over time",
    "fluxscale": "measure the other calibrators against the flux calibrator",
    "applycal": "apply it all",
    "continuum_subtract": "split off the targets; subtract the continuum of those with lines",
    "plan_images": "decide cells, sizes and thresholds; `cube` and `continuum` take tclean's own arguments",
    "self_calibrate": "calibrate targets on themselves, as far as their images get better",
    "make_images": "image and clean",
    "combine_pointings": "mosaics from the images of pointings, where plan_images has mosaic: linear",
    "moments": "integrated intensity and mean velocity of each cube",
    "export": "FITS files and a manifest",
}


def recipe_for(vis: str) -> str:
    """The text of a recipe for an observation: its fields told where it is an MS, every argument as a comment.

    Raises:
        DataError: there is no observation there.
    """
    found = find_input(vis)
    lines = [
        f"# A recipe for {found.path}",
        "#",
        "# What is commented out shows what could be said, and its default.",
    ]
    if found.kind == "MS":
        lines += ["#", *_described(found.path)]
    lines += [f"name: {found.path.stem}", f'vis: ["{vis}"]', "stages:"]
    usual = {request.task for request in recipes.load("calimage").stages}
    for task, explained in _EXPLAINED.items():
        if task in usual:
            lines += [f"  # {explained}", f"  - task: {task}", *_arguments(task)]
        else:
            # Not everybody wants it: to be had by taking the comment signs away.
            lines += [f"  # {explained}:", f"  # - task: {task}"]
    return "\n".join(lines) + "\n"


def _arguments(task: str) -> list[str]:
    """What could be said of a stage, and its default, as comments."""
    lines = []
    parameters = find_stage(task).parameters
    if parameters.model_fields:
        lines.append("    # arguments:")
    for name, model_field in parameters.model_fields.items():
        default = model_field.get_default(call_default_factory=True)
        shown = list(default) if isinstance(default, tuple) else default
        lines.append(f"    #   {name}: {_as_yaml(shown)}")
    return [*lines, "    # cluster: local", "    # resources: {cores: 1, memory: 4GB}"]


def _described(path: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        CasaProcess(Path.cwd(), Path(scratch) / "casa.log").prepare()
        with errors_to(Path(scratch) / "casa.out"):
            observation: Observation = read_observation(str(path), str(path))
    roles = find_roles(observation)
    lines = [f"# {observation.telescope}, {len(observation.antennas)} antennas; fields:"]
    for field in observation.fields:
        uses = [role for role in ("flux", "bandpass", "phase", "target") if field.id in getattr(roles, role)]
        lines.append(f"#   {field.id} {field.name}: {', '.join(uses) or 'not used'}")
    lines.append("# spectral windows:")
    for window in observation.spectral_windows:
        lines.append(
            f"#   {window.id}: {window.channels} channels of {window.channel_width / 1e3:.4g} kHz "
            f"around {window.reference_frequency / 1e9:.6g} GHz"
        )
    return lines


def _as_yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, list | dict | str) else str(value)
