"""A measurement that ends as its job says; ``test_children.py`` runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.children import serve


def end(job: dict[str, Any]) -> dict[str, Any]:
    match job["how"]:
        case "answer":
            Path(job["folder"], "left").write_text("over")
            return {"number": job["number"] + 1, "folder": job["folder"]}
        case "raise":
            raise ValueError("two\nlines")
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(0)
        case "hang":
            # A stopped child of its own, as a rival between its turns is.
            child = subprocess.Popen(["sleep", "60"])
            child.send_signal(signal.SIGSTOP)
            Path(job["note"]).write_text(str(child.pid))
            time.sleep(60)
    raise AssertionError


if __name__ == "__main__":
    serve(end)
