"""The control API: what an operator can see and change while the process runs."""
