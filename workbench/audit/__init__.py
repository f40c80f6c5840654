"""Card -> findings: what it contradicts, hides, or cannot have measured.

Public: `audit`, `Audit` (rules), `Finding`, `Fix` (finding). `findings.md` explains every code.
"""
