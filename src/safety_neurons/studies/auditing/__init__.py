"""Audit a fine-tune against the model that it should be as safe as."""

from safety_neurons.studies.auditing.options import AuditOptions, AuditPrompts
from safety_neurons.studies.auditing.run import audit

__all__ = ["AuditOptions", "AuditPrompts", "audit"]
