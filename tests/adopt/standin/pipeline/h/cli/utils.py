"""The context that tasks work on, and how each of them is run."""

from pathlib import Path

stack = {}


def get_context():
    return stack["context"]


def run(name, cls, **arguments):
    """Run a task on the context, and accept its result."""
    context = get_context()
    result = cls(cls.Inputs(context, **arguments)).execute()
    context.task_counter += 1
    result.accept(context)
    context.results.append(name)
    Path(context.report_dir, "index.html").write_text(f"<p>{', '.join(context.results)}</p>")
    return result
