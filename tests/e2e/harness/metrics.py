"""What a process tells at `/metrics`."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


async def scrape(url: str) -> list[Sample]:
    """`url`: the process's, without a path."""
    async with httpx2.AsyncClient() as client:
        text = (await client.get(f"{url}/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def total(url: str, name: str) -> float:
    """Of all workers, reasons and whatever else it is labelled with."""
    return sum(sample.value for sample in await scrape(url) if sample.name == name)
