"""The command `fraud-lakehouse`: a module a command group; each command calls one function."""

from fraud_lakehouse.cli.commands import app, main

__all__ = ["app", "main"]
