"""Tables of a small set of records."""

import pytest

from tests.analysis.records import runs, tables_of


@pytest.fixture
def collected():
    return tables_of(runs())
