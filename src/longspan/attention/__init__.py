"""Longformer attention on torch alone; it depends on no model."""

from longspan.attention.functional import AttentionResult, GlobalProjection, longformer_attention
from longspan.attention.ops import survey_masks
from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.workspace import release_workspace

__all__ = [
    "AttentionPattern",
    "AttentionResult",
    "GlobalProjection",
    "Window",
    "longformer_attention",
    "release_workspace",
    "survey_masks",
]
