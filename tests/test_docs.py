"""The documents keep up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.config_words import description, flag, setting_names, variable

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_is_documented_with_its_own_words(name: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"`{flag(name)}`" in row
    assert f"`{variable(name)}`" in row
    assert description(name) in row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|src(?:set)?=\"([^\"]+)\"", page.read_text())
    for target in (one or other for one, other in targets):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
