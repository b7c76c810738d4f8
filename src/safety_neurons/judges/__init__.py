"""What an answer is worth: the judges, behind one interface."""

from safety_neurons.judges.answers import unfinished, verdicts_on
from safety_neurons.judges.base import Judge, Verdict
from safety_neurons.judges.refusal import RefusalJudge

__all__ = ["Judge", "RefusalJudge", "Verdict", "unfinished", "verdicts_on"]
