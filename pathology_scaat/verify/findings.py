"""What a check says: one line about one artifact."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    artifact : str
        Path of the artifact inside the output folder, with forward slashes.
    ok : bool
        Whether it is as it should be.
    message : str
        What was found, in one sentence.
    """

    artifact: str
    ok: bool
    message: str


@dataclass
class Report:
    """Collects findings; one for a sound artifact, one per fault for an unsound one."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, artifact: str, problems: list[str], summary: str) -> None:
        if problems:
            self.findings.extend(Finding(artifact, False, problem) for problem in problems)
        else:
            self.findings.append(Finding(artifact, True, summary))
