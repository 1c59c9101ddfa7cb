"""What a diagnosis reports: findings, one a check, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass

from lcl.lines import short_lines


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
        """The finding, with the name of its check in `wide` characters; below it what to do. Short lines."""
        mark, margin = "–" if self.left_out else "✓" if self.ok else "✗", " " * (wide + 4)
        said = short_lines(self.measured, f"{mark} {self.check:{wide}s}  ", margin)
        return f"{said}\n{short_lines(f'→ {self.fix}', margin, f'{margin}  ')}" if self.fix else said


class Diagnosis(tuple):
    """Findings, one a check, printed one below the other."""

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
