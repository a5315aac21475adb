"""Rows that were measured, in a JSON file that grows row by row, so that a run may be stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import reports

Row = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Results:
    """The rows of a file.

    Attributes:
        path: The file.
        rows: By task and method, in the order in which they were first measured.
    """

    path: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read the file; there are no rows where there is none."""
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        return cls(path=path, rows={(row["task"], row["method"]): row for row in rows})

    def known(self, task: str, method: str, text: str) -> bool:
        """Say whether a method has been judged already, by the same recipe file."""
        row = self.rows.get((task, method), {})
        return bool(row.get("verdict")) and row.get("text") == text

    def put(self, row: Row, facts: Mapping[str, Any]) -> None:
        """Add a row, or put it in the place of an older one, and write the file whole.

        Args:
            row: With "task" and "method".
            facts: Of the machine.
        """
        self.rows = Results.load(self.path).rows  # another run may have added some
        self.rows[row["task"], row["method"]] = row
        rows = list(self.rows.values())
        reports.write_json(self.path, {"machine": facts, "rows": rows})
