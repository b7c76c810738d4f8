"""What is kept on disk: whole files, digests of content, resumable rows, data files."""

from safety_neurons.storage.digests import cache_folder, digest, digests_of, sha256_of
from safety_neurons.storage.files import (
    remove,
    require_place,
    whole_folder,
    write_json,
    write_jsonl,
    write_text,
    write_whole,
)
from safety_neurons.storage.rowlog import RowLog
from safety_neurons.storage.rows import read_rows, require_columns

__all__ = [
    "RowLog",
    "cache_folder",
    "digest",
    "digests_of",
    "read_rows",
    "remove",
    "require_columns",
    "require_place",
    "sha256_of",
    "whole_folder",
    "write_json",
    "write_jsonl",
    "write_text",
    "write_whole",
]
