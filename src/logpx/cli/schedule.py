"""The command for project schedules: simulate."""

from __future__ import annotations

__all__ = ["COMMANDS"]

from ._command import Command

COMMANDS: dict[str, Command] = {}
