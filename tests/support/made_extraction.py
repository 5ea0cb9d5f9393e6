"""The record of an extraction that has not begun."""

from agegender.spaces import Space
from trainer.extraction.extraction import Extraction

EXTRACTION = Extraction(
    dataset="faces",
    label_format="labels.csv",
    image_set="images",
    space=Space(id="made-1", dimension=4),
    mirrored=False,
    shard_size=32,
    min_det_score=0,
)
