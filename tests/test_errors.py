import pandas as pd
import pytest

from genobird.errors import counted, one_line, quoted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "shard", "0 shards"),
        (1, "shard", "1 shard"),
        (2_000, "tab-separated column", "2,000 tab-separated columns"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
        (2, "stretch", "2 stretches"),
    ],
)
def test_a_count_has_its_noun_in_the_right_number(number, noun, expected):
    assert counted(number, noun) == expected


def test_what_is_quoted_stands_on_one_line():
    # A frame that was given as sequences made an error of three lines.
    assert quoted(pd.DataFrame({"s": ["ACGT"]})) == "      s 0  ACGT"
    assert quoted("a\nb") == "'a\\nb'"


def test_a_message_stands_on_one_line_and_commands_no_terminal():
    assert one_line("a\nb\u2028c\x1b[31m") == r"a\nb\u2028c\x1b[31m"
    assert one_line("chr20:5 é·µ 'a' \\n") == "chr20:5 é·µ 'a' \\n"
