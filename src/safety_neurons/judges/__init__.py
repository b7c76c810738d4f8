"""What an answer is worth: the judges, behind one interface."""

from safety_neurons.judges.answers import opinions_on, unfinished, verdicts_on
from safety_neurons.judges.base import Judge, Opinion, ProbabilisticJudge, Probabilities, Verdict
from safety_neurons.judges.choosing import Judges, judge_of, judges_of
from safety_neurons.judges.classifier import RefusalJudge
from safety_neurons.judges.harm import HarmJudge, harm_of

__all__ = [
    "HarmJudge",
    "Judge",
    "Judges",
    "Opinion",
    "ProbabilisticJudge",
    "Probabilities",
    "RefusalJudge",
    "Verdict",
    "harm_of",
    "judge_of",
    "judges_of",
    "opinions_on",
    "unfinished",
    "verdicts_on",
]
