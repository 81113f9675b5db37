"""Small language models with dense attention and with this library's, and prompts for them."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def dense():
    from helpers.models import made

    return made(implementation="sdpa")


@pytest.fixture(scope="module")
def sparse():
    from helpers.models import made

    return made()


@pytest.fixture(scope="module")
def prompts():
    import torch
    from helpers.models import VOCABULARY

    return torch.from_numpy(np.random.default_rng(7).integers(1, VOCABULARY, (3, 40)))
