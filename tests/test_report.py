"""Tables line up on a terminal."""

from __future__ import annotations

import pytest

from lib_resize.cli.report import aligned, columns


@pytest.mark.parametrize(
    ("text", "width"), [("lora", 4), ("漢字", 4), ("カナ", 4), ("ü", 1), ("u\u0308", 1), ("\uff21", 2)]
)
def test_a_text_takes_as_many_columns_as_a_terminal_gives_it(text: str, width: int) -> None:
    assert columns(text) == width


def test_numbers_end_in_one_column_in_every_script_of_names() -> None:
    lines = aligned([["LoRA", "after"], ["漢字", "1.5"], ["u\u0308ber", "12.25"], ["plain name", "3"]]).splitlines()
    assert len({columns(line) for line in lines}) == 1
