"""Inspect servers and propose a pipeline folder for them.

Here: facts about servers (names, types, keys, counts), guesses from them, and the proposal's text. Not here: capture.
A proposal contains no values of rows and no connection strings.
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
