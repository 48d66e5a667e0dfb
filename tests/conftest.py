"""What every Python test has: an account for scripts/run-parts."""

import os


def pytest_terminal_summary(terminalreporter) -> None:
    """For scripts/run-parts: what passed, what was skipped, and the name of each that failed; told once, by the process
    that hears of all when several run tests."""
    if "TEST_RESULTS" not in os.environ or hasattr(terminalreporter.config, "workerinput"):
        return
    outcomes = terminalreporter.stats
    lines = [f"{outcome} {len(outcomes.get(outcome, []))}" for outcome in ("passed", "skipped")]
    lines += [f"failed {name}" for name in dict.fromkeys(report.nodeid for kind in ("failed", "error")
                                                         for report in outcomes.get(kind, []))]
    with open(os.environ["TEST_RESULTS"], "a") as results:
        results.write("".join(line + "\n" for line in lines))
