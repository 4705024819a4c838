"""The context."""

import pickle
from pathlib import Path

# How often one was pickled and unpickled in this process.
SAVED = 0
LOADED = 0


class Part:
    def __init__(self, **content):
        self.__dict__.update(content)


class ImageLibrary:
    def __init__(self):
        self._images = []

    def get_imlist(self):
        return self._images


class Context:
    def __init__(self, output_dir):
        self.name = "context"
        self.output_dir = str(output_dir)
        self.report_dir = str(Path(output_dir) / "html")
        self.logs = {"casa_commands": "casa_commands.log"}
        self.results = []
        self.touched = 0
        self.task_counter = 0
        self.processing_intents = {}
        self.processes = []
        self.observing_run = Part(measurement_sets=[])
        self.callibrary = Part()
        self.sciimlist = ImageLibrary()
        self.project_structure = Part(recipe_name="")
        self.project_performance_parameters = Part(desired_angular_resolution=0)
        Path(self.report_dir).mkdir(exist_ok=True)

    @property
    def commands(self):
        path = Path(self.report_dir, "casa_commands.log")
        return path.read_text().splitlines() if path.exists() else []

    def set_state(self, cls, name, value):
        records = {
            "ProjectStructure": self.project_structure,
            "PerformanceParameters": self.project_performance_parameters,
        }
        setattr(records[cls], name, value)

    def save(self, path):
        global SAVED
        SAVED += 1
        with Path(path).open("wb") as saved:
            pickle.dump(self, saved, protocol=-1)

    def __setstate__(self, state):
        global LOADED
        LOADED += 1
        self.__dict__.update(state)
