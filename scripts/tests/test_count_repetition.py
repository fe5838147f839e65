"""Runs of equal lines are found within and across files."""

from scripts.ci.count_repetition import Run, repeated_runs

BLOCK = ["one()", "two()", "three()"]


def test_a_block_in_two_files_is_a_run_in_each() -> None:
    files = {"a.py": "\n".join(["start()", *BLOCK]), "b.py": "\n".join([*BLOCK, "end()"])}
    assert repeated_runs(files, 3) == [Run("a.py", 2, 4, 3), Run("b.py", 1, 3, 3)]
    assert repeated_runs(files, 4) == []


def test_blank_lines_and_indentation_do_not_count() -> None:
    files = {"a.py": "\n".join(BLOCK), "b.py": "if x:\n    one()\n\n    two()\n    three()"}
    assert repeated_runs(files, 3) == [Run("a.py", 1, 3, 3), Run("b.py", 2, 5, 3)]


def test_a_longer_block_is_one_run() -> None:
    lines = [f"line({number})" for number in range(5)]
    assert repeated_runs({"a.py": "\n".join([*lines, "between()", *lines])}, 3) == [
        Run("a.py", 1, 5, 5),
        Run("a.py", 7, 11, 5),
    ]
