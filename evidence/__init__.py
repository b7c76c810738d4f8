"""The evidence of docs/evidence.md, made again from nothing: `make evidence`."""
