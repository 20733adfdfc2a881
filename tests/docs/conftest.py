"""The list of lines that documentation tests replace is printed at the end of a run."""

from support.docs import SUBSTITUTES


def pytest_terminal_summary(terminalreporter):
    for line, (substitute, reason) in SUBSTITUTES.items():
        terminalreporter.write_line(f"not run as printed: {line}: {reason}; instead: {substitute}")
