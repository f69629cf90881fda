"""The failure matrix: every role and Redis killed, frozen and cut off while clients read (`docs/failures.md`)."""
