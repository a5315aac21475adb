"""What is written as C is C, whatever names the model has."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.codegen import emit


def test_any_name_survives_a_c_compiler(tmp_path: Path) -> None:
    """All names go through one compilation: trigraphs, quotes, escapes, digits after escapes."""
    names = [
        "",
        'say "hi"',
        "back\\slash",
        "??/ ??=",
        "\n1",
        "\x7f9",
        "é2",
        "*/ /*",
        "%s%n",
        "日本",
    ]

    @settings(derandomize=True, max_examples=100, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9))
    def collect(name: str) -> None:
        names.append(name)

    collect()
    rows = "".join(f"    puts_({emit._string(name)});\n" for name in names)
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <string.h>\n"
        "static void puts_(const char *s) { fwrite(s, 1, strlen(s) + 1, stdout); }\n"
        f"int main(void) {{\n{rows}    return 0;\n}}\n"
    )
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == b"".join(name.encode() + b"\0" for name in names)


def test_names_are_stored_once_and_found_by_offset() -> None:
    names = emit._Names()
    assert [names.add(name) for name in ("a", "bé", "a", "c")] == [0, 2, 0, 6]
    assert names.table() == (
        'static const char plan_names[] =\n    "a" "\\0"\n    "b\\303\\251" "\\0"\n    "c" "\\0";\n'
    )


def test_empty_tables_have_a_row_for_c() -> None:
    assert emit._table("int x", [], "0") == "static const int x[] = {\n    0,\n};\n"
