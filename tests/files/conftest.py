"""A container in a file of its own."""

import pytest
from helpers.container import ARRAYS, METADATA

from halfspace.files import container as storage


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved"
    storage.write(path, METADATA, ARRAYS)
    return path
