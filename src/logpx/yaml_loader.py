"""How YAML files are read: plain values alone, nested no deeper than ours are, and no more than the file says."""

from __future__ import annotations

__all__ = ["DEEPEST", "BoundedLoader"]

from typing import Any

import yaml

# Settings and projects are nested four levels deep; Python's stack ends at about two hundred.
DEEPEST = 20


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what would fill the stack or the memory.

    Raises:
        yaml.MarkedYAMLError: If values are nested too deeply or mappings are merged, because a merge copies, and a few
            lines of merges of merges fill any memory.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the node of the next event, with those within it."""
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"it is nested deeper than {DEEPEST} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuses merges, which PyYAML would do here."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem="<< is not read", problem_mark=key.start_mark)
        super().flatten_mapping(node)
