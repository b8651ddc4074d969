"""The pages, taken apart into blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

BLOCK = re.compile(
    r"(?:^[ \t]*<!--(?P<comment>.*?)-->[ \t]*\n)?"
    r"^(?P<indent>[ \t]*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: what it is written in, where it starts, and the comment right above it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def excused(self, by: str) -> bool:
        """Whether the comment above says `by: reason`.

        Raises:
            ValueError: It says so and gives no reason.
        """
        said, _, reason = self.comment.strip().partition(":")
        if said.strip() != by:
            return False
        if not reason.strip():
            raise ValueError(f"{self.place}: say why: <!-- {by}: … -->")
        return True


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str, page: Path | None = None) -> list[Block]:
    found = []
    for each in [page] if page else pages():
        text = each.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("text")) + 1
                body = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
                found.append(Block(each, line, language, body, match["comment"] or ""))
    return found
