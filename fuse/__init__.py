"""Fusion heads as sklearn estimators, and the protocol that compares them."""

from fuse.bundle import load, save
from fuse.estimators import FusionClassifier
from fuse.evaluate import Evaluation, evaluate
from fuse.heads.linear import ConcatLogisticClassifier, UnimodalClassifier
from fuse.heads.mlp import ConcatMLPClassifier
from fuse.heads.vote import LateVotingClassifier
from fuse.metrics import classification_metrics
from fuse.registry import HEADS, Head, make_classifier
from fuse.report.screen import comparison_table, evaluation_text
from fuse.runs import Judged, Run, judge, load_run, predict, run_head
from fuse.splits import Protocol, protocol_for

__all__ = [
    "HEADS",
    "ConcatLogisticClassifier",
    "ConcatMLPClassifier",
    "Evaluation",
    "FusionClassifier",
    "Head",
    "Judged",
    "LateVotingClassifier",
    "Protocol",
    "Run",
    "UnimodalClassifier",
    "classification_metrics",
    "comparison_table",
    "evaluate",
    "evaluation_text",
    "judge",
    "load",
    "load_run",
    "make_classifier",
    "predict",
    "protocol_for",
    "run_head",
    "save",
]
