"""Settings of the Python tests; the rest (watchdog, markers, import mode) stands in pyproject.toml."""

import importlib.util

import hypothesis

# No bounds on time: the machine may be busy. A failure prints the blob that reproduces it.
hypothesis.settings.register_profile("beeline", deadline=None, print_blob=True)
hypothesis.settings.load_profile("beeline")


def pytest_report_header() -> str:
    """Says which beeline the tests run against: it should be the installed wheel."""
    found = importlib.util.find_spec("beeline")
    return f"beeline: {found.origin if found else 'not installed'}"
