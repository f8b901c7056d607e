"""The audit log: who was served what, under which terms, recorded when the last byte left, and provable."""
