"""The pages of the documentation, and the commands and code that they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, also inside of lists."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def shown_lines(page: Path) -> list[str]:
    """The command lines of a page, or of a shell script, without prompts and comments."""
    text = page.read_text(encoding="utf-8")
    shown = [text] if page.suffix == ".sh" else blocks(page, "console")
    lines = "\n".join(shown).splitlines()
    return [re.split(r"\s+# ", line.removeprefix("$ "))[0].strip() for line in lines]


def shown_commands(page: Path) -> list[str]:
    """The ssltool commands of a page."""
    parts = [part.strip() for line in shown_lines(page) for part in re.split(r"&&|\|", line)]
    return [part for part in parts if re.match(r"(\S*/)?ssltool ", part)]
