"""What artifacts say, parsed into typed records. Pure: bytes or text in, records out.

Everything here reads files that an untrusted pod produced. A parser returns a record in which
every number is finite and every field has its type, or raises `EvidenceError`; never anything
else.
"""

from orchestrator.evidence.errors import EvidenceError

__all__ = ["EvidenceError"]
