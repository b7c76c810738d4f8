"""Training the judge of refusals: labelled rows, the fit, and agreement on what was left out."""

from safety_neurons.studies.judge_training.agreement import Agreement, HeldOut, phrase_list
from safety_neurons.studies.judge_training.train import TrainedJudge, train_judge

__all__ = ["Agreement", "HeldOut", "TrainedJudge", "phrase_list", "train_judge"]
