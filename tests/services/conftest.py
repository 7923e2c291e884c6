"""The services of one site, for all tests that need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A site with running services; at the end no process of it is left."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    with made.running():
        yield made


@pytest.fixture
def services(stack: Stack) -> Stack:
    """The running services, with engines that work and take a third of a second."""
    stack.start()
    stack.steer()
    return stack
