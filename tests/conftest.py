"""What `make verify` asks for: `--parts`, the time of each part and the share of each long form, and `--minutes`, its cap; and
the figures of `make torture`."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from torture import SHARE, long_forms

BEGAN = time.monotonic()
LAST = 3  # minutes that a test which was begun may take beyond the others; those with longer limits are begun first


def pytest_addoption(parser):
    parser.addoption("--parts", action="store_true", help="the time of each part of the suite, and its share of all")
    parser.addoption("--minutes", type=float, metavar="M", help=f"no test begins in the last {LAST} of M minutes")


def pytest_collection_modifyitems(items, config):
    for item in items if SHARE else ():
        item.add_marker(pytest.mark.timeout(0), append=False)  # hours
    if config.getoption("--minutes") is not None:
        limit = {item: (item.get_closest_marker("timeout") or pytest.mark.timeout(0).mark).args[0] for item in items}
        items.sort(key=lambda item: -limit[item])


def pytest_runtest_protocol(item):
    minutes = item.config.getoption("--minutes")
    over = minutes is not None and time.monotonic() - BEGAN > 60 * (minutes - LAST)
    return True if over else None  # it is done with


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
    total, count = sum(seconds.values()), sum(tests.values())
    terminalreporter.section("share of the long forms that this held")
    for place, held, full in long_forms(Path(__file__).parent):
        terminalreporter.write_line(f"{held / full:7.1%} {held:7,} of {full:7,}  {place}")
    terminalreporter.write_line(f"{count:7,} tests were begun in time")
    terminalreporter.section("time by part")
    for part in sorted(seconds, key=seconds.get, reverse=True):
        share = seconds[part] / max(total, 1e-9)
        terminalreporter.write_line(f"{seconds[part] / 60:7.2f} min {share:5.1%} {tests[part]:5} tests  {part}")
    terminalreporter.write_line(f"{total / 60:7.2f} min of one core; two take half of it, at most 45 min")
