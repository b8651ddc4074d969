"""These tests need torch-pruning, but for what is said where it is missing."""

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items):
    if find_spec("torch_pruning") is None:
        skip = pytest.mark.skip(reason="torch-pruning is not installed: pip install 'prunekit[structural]'")
        for item in items:
            if item.path.parent.name == "structural" and "without" not in item.path.name:
                item.add_marker(skip)
