"""What a pipeline predicts: everything that depends on the kind of its label, one module for each task."""

from components.tasks.task import Metric, Task, task_of

__all__ = ["Metric", "Task", "task_of"]
