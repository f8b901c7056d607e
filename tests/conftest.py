"""What holds for every test."""

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_at_the_start() -> None:
    """A test that sets up logging, as commands do, leaves none of it to the next."""
    structlog.reset_defaults()
