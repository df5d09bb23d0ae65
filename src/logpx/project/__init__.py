"""Project networks: tasks that wait for each other, with random durations, and when the last of them ends."""

__all__ = [
    "Duration",
    "Durations",
    "Project",
    "Schedule",
    "Simulation",
    "Task",
    "TaskError",
    "Triangular",
    "example",
    "parse_duration",
    "read_project",
    "simulate",
]

from .durations import Duration, Durations, Triangular, parse_duration
from .network import Project, Schedule, Task, TaskError
from .reading import example, read_project
from .simulation import Simulation, simulate
