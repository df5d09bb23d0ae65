"""Project networks: tasks that wait for each other, with random durations, and when the last of them ends."""

__all__ = [
    "Duration",
    "Durations",
    "Project",
    "Schedule",
    "Simulation",
    "Study",
    "Task",
    "TaskError",
    "Triangular",
    "deadline_probability",
    "example",
    "parse_duration",
    "read_project",
    "run_study",
    "simulate",
]

from .durations import Duration, parse_duration
from .joint import Durations
from .laws import Triangular
from .network import Project, Schedule, Task, TaskError
from .reading import example, read_project
from .risk import deadline_probability
from .simulation import Simulation, simulate
from .study import Study, run_study
