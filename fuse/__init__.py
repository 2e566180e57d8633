"""Fusion heads as sklearn estimators, and the protocol that compares them."""

from fuse.bundle import load, save
from fuse.estimators import FusionClassifier
from fuse.evaluate import Evaluation, evaluate
from fuse.heads.linear import ConcatLogisticClassifier, UnimodalClassifier
from fuse.heads.mlp import ConcatMLPClassifier
from fuse.heads.vote import LateVotingClassifier
from fuse.metrics import classification_metrics
from fuse.registry import HEADS, Head, make_classifier, modalities_of
from fuse.report.files import write_predictions
from fuse.report.screen import comparison_table, evaluation_text
from fuse.runs import Run, check_free, load_run, new_folder, run_head, write_run
from fuse.splits import Protocol, protocol_for

__all__ = [
    "HEADS",
    "ConcatLogisticClassifier",
    "ConcatMLPClassifier",
    "Evaluation",
    "FusionClassifier",
    "Head",
    "LateVotingClassifier",
    "Protocol",
    "Run",
    "UnimodalClassifier",
    "check_free",
    "classification_metrics",
    "comparison_table",
    "evaluate",
    "evaluation_text",
    "load",
    "load_run",
    "make_classifier",
    "modalities_of",
    "new_folder",
    "protocol_for",
    "run_head",
    "save",
    "write_predictions",
    "write_run",
]
