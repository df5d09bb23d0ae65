"""Self-contained HTML pages: of a run folder, and of the study of a project."""

__all__ = ["project_page", "report"]

from .project import project_page
from .run import report
