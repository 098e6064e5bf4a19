import pytest

from tests.relational.springs_run import SpringsRun


@pytest.fixture(scope="session")
def springs_run():
    return SpringsRun()
