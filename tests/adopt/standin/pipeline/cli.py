"""All tasks by their names, as users and procedures call them."""

import pickle
from pathlib import Path

from . import reduction
from .h.cli import utils
from .infrastructure import launcher


def h_init(processing_intents=None):
    context = launcher.Context("")
    context.processing_intents = processing_intents or {}
    utils.stack["context"] = context
    return context


def h_resume(filename=None):
    with Path(filename).open("rb") as saved:
        utils.stack["context"] = pickle.load(saved)
    return utils.get_context()


def hifv_importdata(vis=None, session=None):
    return utils.run("hifv_importdata", reduction.Import, vis=vis, session=session)


def hifv_flagdata(amount=1, parallel=False):
    return utils.run("hifv_flagdata", reduction.ParallelFlag, amount=amount, parallel=parallel)


def hif_makeimages(names=(), parallel="automatic"):
    return utils.run("hif_makeimages", reduction.MakeImages, names=names, parallel=parallel)


def hif_testBPdcals():
    return utils.run("hif_testBPdcals", reduction.Impossible)
