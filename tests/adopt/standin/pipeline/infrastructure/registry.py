"""Which task is known by which name."""


class Entry:
    def __init__(self, casa_task, pipeline_class):
        self.casa_task = casa_task
        self.pipeline_class = pipeline_class


class Registry:
    def __init__(self):
        self.task_map = []

    def add(self, name):
        def known(cls):
            self.task_map.append(Entry(name, cls))
            return cls

        return known

    def get_casa_task(self, cls):
        for entry in self.task_map:
            if entry.pipeline_class is cls:
                return entry.casa_task
        raise KeyError(cls.__name__)


task_registry = Registry()
