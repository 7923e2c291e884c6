"""Fixtures of the engine's tests."""

from __future__ import annotations

from tests.engine_contract.engine_cases import beam_case, plan

__all__ = ["beam_case", "plan"]
