"""Tables as plain text, for what is printed to people."""

from typing import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under titles, in columns as wide as what they hold; the last one is not padded."""
    titled = [list(titles), *map(list, rows)]
    widths = [max(len(row[column]) for row in titled) for column in range(len(titles))]

    def line(row):
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(titles), rule, *map(line, rows)])
