"""What a diagnosis reports: findings, one a check, and how they are printed."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

WIDTH = 92  # characters a line: notebooks break longer lines within words


@dataclass(frozen=True)
class Finding:
    """A check and its verdict.

    Attributes:
        check: its name.
        measured: the value in words, or why the check was left out.
        fix: what to do, "" if nothing is wrong.
        left_out: whether it was left out.
    """

    check: str
    measured: str
    fix: str = ""
    left_out: bool = False

    @property
    def ok(self) -> bool:
        return not self.fix

    def in_words(self, wide: int) -> str:
        """A line, with the name of the check in `wide` characters, and what to do below it, broken between words."""
        line = f"{'–' if self.left_out else '✓' if self.ok else '✗'} {self.check:{wide}s}  {self.measured}"
        margin = " " * (wide + 4)
        fix = textwrap.fill(f"→ {self.fix}", WIDTH, initial_indent=margin, subsequent_indent=f"{margin}  ")
        return f"{line}\n{fix}" if self.fix else line


class Diagnosis(tuple):
    """Findings, one a check; printed as one line each, and below it what to do if there is a problem."""

    @property
    def failed(self) -> list[str]:
        """The names of the checks that found a problem."""
        return [finding.check for finding in self if not finding.ok]

    @property
    def failures(self) -> Diagnosis:
        """The findings with a problem."""
        return Diagnosis(finding for finding in self if not finding.ok)

    def __repr__(self) -> str:
        if not self:
            return "✓ no problem was found"
        wide = max(len(finding.check) for finding in self)
        return "\n".join(finding.in_words(wide) for finding in self)
