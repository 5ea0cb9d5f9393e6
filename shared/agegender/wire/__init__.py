"""The original project's wire formats and files, read by decoders that execute nothing."""

from agegender.wire.arrays import WireError
from agegender.wire.original import (
    DIMENSION,
    OriginalAge,
    OriginalFace,
    OriginalGender,
    decode_embeddings_request,
    decode_faces_answer,
    decode_image_request,
    encode_faces_answer,
    encode_image_request,
    encode_predictions_answer,
    require_original_dimension,
)

__all__ = [
    "DIMENSION",
    "OriginalAge",
    "OriginalFace",
    "OriginalGender",
    "WireError",
    "decode_embeddings_request",
    "decode_faces_answer",
    "decode_image_request",
    "encode_faces_answer",
    "encode_image_request",
    "encode_predictions_answer",
    "require_original_dimension",
]
