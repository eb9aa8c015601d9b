"""`--parts`: the time that each part of the suite took, as `make verify` says it; and the figures of `make torture`."""

from collections import defaultdict

import pytest

from torture import SHARE


def pytest_addoption(parser):
    parser.addoption("--parts", action="store_true", help="the time of each part of the suite, and its share of all")


def pytest_collection_modifyitems(items):
    for item in items if SHARE else ():
        item.add_marker(pytest.mark.timeout(0), append=False)  # hours


def pytest_terminal_summary(terminalreporter, config):
    reports = [r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "call"]
    figures = [(r.nodeid, value) for r in reports for name, value in r.user_properties if name == "figure"]
    if SHARE and figures:
        terminalreporter.section("figures")
        for test, figure in sorted(figures):
            terminalreporter.write_line(f"{test.partition('::')[0]}: {figure}")
    if not config.getoption("--parts"):
        return
    seconds, tests = defaultdict(float), defaultdict(int)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                part = report.nodeid.partition("::")[0].removeprefix("tests/").partition("/")[0].removesuffix(".py")
                seconds[part] += report.duration
                tests[part] += report.when == "call"
    total = sum(seconds.values())
    terminalreporter.section("time by part")
    for part in sorted(seconds, key=seconds.get, reverse=True):
        terminalreporter.write_line(f"{seconds[part] / 60:7.2f} min {seconds[part] / total:5.1%} {tests[part]:5} tests  {part}")
    terminalreporter.write_line(f"{total / 60:7.2f} min of one core; two take half of it, at most 45 min")
