"""How long tests wait for what must happen before they call it a hang."""

from __future__ import annotations

PATIENCE = 300.0
"""Seconds; on a machine that is twenty times slower than a quiet one a process takes a minute to start."""
