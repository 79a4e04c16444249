"""One record a call, chained by hash, so that a changed, missing or cut record shows.

`chain` is the pure format, `log` the one writer, `checkpoint` the signed count and head outside
the log, `verification` reads both and names the first broken record. What it can't show: records
cut off within the seconds since the last checkpoint, and a rewrite by who holds the signing key.
"""

from mcpcp.audit.chain import CallRecord, Outcome
from mcpcp.audit.log import AuditLog
from mcpcp.audit.verification import Verdict, chains, verify

__all__ = ["AuditLog", "CallRecord", "Outcome", "Verdict", "chains", "verify"]
