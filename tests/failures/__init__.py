"""The failure matrix: every role and Redis killed, frozen and cut off (`docs/failures.md`)."""
