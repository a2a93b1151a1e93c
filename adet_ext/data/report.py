"""The findings of a check of a data set, grouped by kind, with a few examples and the count of each."""

import dataclasses

from ..errors import UserError

__all__ = ["Finding", "Report"]


@dataclasses.dataclass
class Finding:
    """One kind of problem: its name, whether it is an error, how often it occurs, and the first cases."""

    kind: str
    is_error: bool
    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)


class Report:
    """Findings about one file.

    Args:
        subject: the file's name. Every sentence starts with it.
        max_examples: how many cases of each kind are kept. All are counted.
    """

    def __init__(self, subject: str, max_examples: int = 5):
        self.subject = subject
        self.max_examples = max_examples
        self.notes: list[str] = []
        self._findings: dict[str, Finding] = {}

    def error(self, kind: str, sentence: str) -> None:
        """Add something that prevents the use of the data set."""
        self._add(kind, True, sentence)

    def warning(self, kind: str, sentence: str) -> None:
        """Add something that is left out or adjusted."""
        self._add(kind, False, sentence)

    def _add(self, kind: str, is_error: bool, sentence: str) -> None:
        finding = self._findings.setdefault(kind, Finding(kind, is_error))
        finding.count += 1
        if len(finding.examples) < self.max_examples:
            finding.examples.append(f"{self.subject}: {sentence}")

    @property
    def findings(self) -> dict[str, Finding]:
        return dict(self._findings)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self._findings.values() if f.is_error]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self._findings.values() if not f.is_error]

    @property
    def ok(self) -> bool:
        return not self.errors

    def count(self, kind: str) -> int:
        """Return how often ``kind`` was found."""
        return self._findings[kind].count if kind in self._findings else 0

    def raise_for_errors(self) -> None:
        """Raise a UserError with the first case of each kind of error, if there is any."""
        if not self.errors:
            return
        lines = []
        for finding in self.errors:
            more = f" (and {finding.count - 1} more of this kind)" if finding.count > 1 else ""
            lines.append(finding.examples[0] + more)
        raise UserError("\n".join(lines))

    def __str__(self) -> str:
        lines = []
        for name, findings in (("error", self.errors), ("warning", self.warnings)):
            for finding in findings:
                lines.append(f"{name}: {finding.kind} ({finding.count})")
                lines += [f"    {example}" for example in finding.examples]
                if finding.count > len(finding.examples):
                    lines.append(f"    ... and {finding.count - len(finding.examples)} more")
        lines += self.notes
        verdict = f"{_kinds(self.errors, 'error')}, {_kinds(self.warnings, 'warning')}"
        return "\n".join([*lines, f"{self.subject}: {verdict if lines else 'no problems found'}"])


def _kinds(findings: list[Finding], name: str) -> str:
    total = sum(f.count for f in findings)
    return f"{total} {name}{'' if total == 1 else 's'} of {len(findings)} kind{'' if len(findings) == 1 else 's'}"
