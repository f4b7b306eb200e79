"""What is written from raw results: the page, plots, the README's table, the sizing page; the results beside them."""

from __future__ import annotations

from pathlib import Path

from bench import report, results, sizing
from bench.results import Results

ROOT = Path(__file__).parent.parent
RAW = ROOT / "docs" / "benchmarks.json"
_BEGIN, _END = "<!-- benchmarks: begin (python -m bench --pages) -->", "<!-- benchmarks: end -->"


class MarkerError(Exception):
    """A document has no place for what is written into it."""


def documents(measured: Results, root: Path = ROOT) -> dict[Path, str]:
    """The text of every document that these results decide, by its path."""
    readme = root / "README.md"
    return {
        root / "docs" / "benchmarks.md": report.page(measured),
        root / "docs" / "sizing.md": sizing.page(measured),
        readme: between_markers(readme.read_text(encoding="utf-8"), report.readme(measured)),
    }


def write(measured: Results, root: Path = ROOT) -> None:
    from bench import draw  # whoever only reads tables needs no plotting

    for path, text in documents(measured, root).items():
        path.write_text(text, encoding="utf-8")
    draw.draw(measured, root / "docs" / "images")
    results.write(root / "docs" / RAW.name, measured)


def between_markers(document: str, text: str) -> str:
    """`MarkerError` without exactly one pair of markers."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end or _BEGIN in after:
        raise MarkerError(f"The document needs one pair of {_BEGIN} and {_END}.")
    return f"{before}{_BEGIN}\n{text}\n{_END}{after}"
