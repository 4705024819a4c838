"""The flow that a Job of a work pool runs: a session, in the Job's own process and on what clusters it starts.

Imported only where Prefect is: by the Job, and by who deploys it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, states

from surgeline.config import load
from surgeline.errors import SurgelineError
from surgeline.workflow import recipe as recipes
from surgeline.workflow.session import Session

# By which a deployment finds it in an image.
ENTRYPOINT = f"{__name__}.session"


@flow(name="surgeline-session", persist_result=False)
def session(recipe: dict[str, Any], workdir: str, settings: list[str], stage: str | None = None) -> Any:
    """Run a session, or go on with the one of the working folder.

    Args:
        recipe: its content, observations included.
        workdir: the working folder, as the Job sees it.
        settings: as for `--set`.
        stage: the one stage to run, of which all that it needs has finished; None: all.
    """
    try:
        configuration = load(Path(workdir), [*settings, "orchestrator=prefect"])
        with Session(recipes.parse(recipe, "the deployment"), Path(workdir), configuration, only=stage) as begun:
            begun.run()
    except SurgelineError as error:
        return states.Failed(message=str(error))
    return states.Completed()
