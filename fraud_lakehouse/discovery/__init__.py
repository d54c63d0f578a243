"""Inspect servers and propose a pipeline folder for them.

What belongs here: what servers have (names, types, keys, counts), guesses from that, and the proposal's text. What does
not: capturing anything. No value of a row, and no connection, is in a proposal.
"""

from fraud_lakehouse.discovery.folder import file_texts, present_entries, write_folder
from fraud_lakehouse.discovery.inspection import Inspection, Servers, inspect_servers, servers_of
from fraud_lakehouse.discovery.postgres import sentence

__all__ = [
    "Inspection",
    "Servers",
    "file_texts",
    "inspect_servers",
    "present_entries",
    "sentence",
    "servers_of",
    "write_folder",
]
