"""What is kept on disk: run folders, whole-file writes, resumable rows, digests of content."""

from safety_neurons.artifacts.digests import cache_folder, digest, digests_of, sha256_of
from safety_neurons.artifacts.environment import environment, versions
from safety_neurons.artifacts.files import (
    remove,
    require_place,
    write_json,
    write_jsonl,
    write_text,
    write_whole,
)
from safety_neurons.artifacts.folder import RunFolder, Stage
from safety_neurons.artifacts.rowlog import RowLog

__all__ = [
    "RowLog",
    "RunFolder",
    "Stage",
    "cache_folder",
    "digest",
    "digests_of",
    "environment",
    "remove",
    "require_place",
    "sha256_of",
    "versions",
    "write_json",
    "write_jsonl",
    "write_text",
    "write_whole",
]
