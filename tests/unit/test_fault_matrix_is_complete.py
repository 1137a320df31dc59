"""The fault matrix leaves no statement of the service out."""

from __future__ import annotations

from tests.acceptance.test_fault_matrix import ELSEWHERE, PROVOKED
from tests.support.proxies.failing_postgres import statements_of_the_service


def test_each_statement_that_the_service_runs_is_in_the_fault_matrix() -> None:
    assert statements_of_the_service() == set(PROVOKED) | set(ELSEWHERE)
    assert not set(PROVOKED) & set(ELSEWHERE)
