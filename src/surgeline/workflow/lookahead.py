"""What clusters with a queue are told of the stages that run and of those that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgeline.clusters.surge import Ahead
from surgeline.config import Configuration
from surgeline.parallel.backend import choose
from surgeline.parallel.foresight import NOTHING_MORE, Foreseen
from surgeline.work.estimates import Estimates
from surgeline.workflow.asking import before_there_are_any
from surgeline.workflow.recipe import StageRequest, cluster_of


def what_comes(
    at_work: Sequence[StageRequest],
    ahead: Sequence[StageRequest],
    recipe: str,
    configuration: Configuration,
    estimates: Estimates,
) -> dict[str, Foreseen]:
    """What each cluster with a queue is to be told, by its name.

    Args:
        at_work: the stages that run.
        ahead: those that can run as soon as these have finished.
        recipe: the recipe's name.
        configuration: the whole configuration.
        estimates: what is known of jobs from earlier sessions.
    """
    found: dict[str, Foreseen] = {}
    for request in [*at_work, *ahead]:
        name = cluster_of(request, configuration)
        kind, _ = choose(configuration, request.cluster, request.backend)
        if kind != "dask" or not configuration.settings.clusters[name].has_queue:
            continue
        known = found.get(name, NOTHING_MORE)
        if request in at_work:
            found[name] = replace(known, at_work=True)
        else:
            asked, seconds = before_there_are_any(request, estimates)
            ahead_of_it = Ahead(asked, estimates.width(recipe, request.name), seconds)
            found[name] = replace(known, ahead=(*known.ahead, ahead_of_it))
    return found
