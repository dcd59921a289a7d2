"""The benchmark of methods measures what the engine writes."""

from __future__ import annotations

import pytest

from benchmarks.methods import main, measure, recipes_for, table


def test_retention_falls_from_the_exact_to_the_random_and_every_method_has_a_row(lora) -> None:
    rows = measure(lora, recipes_for(3), rounds=1)
    assert [row.recipe.split(",")[0] for row in rows] == ["rank=3", "rsvd", "rsvd", "projection", "sparse"]
    exact, fine, rough, *projections = rows
    assert exact.retention >= fine.retention >= rough.retention > max(row.retention for row in projections)
    assert exact.error == pytest.approx((1 - exact.retention**2) ** 0.5, rel=1e-4)
    assert all(row.seconds > 0 for row in rows)
    assert table(rows).count("\n") == 6


def test_it_runs_as_a_command(lora, capsys) -> None:
    assert main([str(lora), "--rank", "2", "--rounds", "1"]) == 0
    assert "| `rank=2` |" in capsys.readouterr().out
