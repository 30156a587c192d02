"""Text into sequences: readers, tokenized corpora, streams, layouts and masking."""

from longspan.data.corpus import DocumentSequences, PackedSequences, TokenCorpus
from longspan.data.global_mask_collation import GlobalMaskCollator
from longspan.data.layout import SequenceLayout
from longspan.data.masking import Piece, collate, mask_tokens
from longspan.data.segments import SegmentedText, SegmentLayout
from longspan.data.sentences import split_sentences
from longspan.data.stream import StreamedSequences
from longspan.data.text import Document, as_documents, find_files, read_documents

__all__ = [
    "Document",
    "DocumentSequences",
    "GlobalMaskCollator",
    "PackedSequences",
    "Piece",
    "SegmentLayout",
    "SegmentedText",
    "SequenceLayout",
    "StreamedSequences",
    "TokenCorpus",
    "as_documents",
    "collate",
    "find_files",
    "mask_tokens",
    "read_documents",
    "split_sentences",
]
