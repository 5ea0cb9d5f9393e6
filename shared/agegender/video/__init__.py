"""Videos: decode frames, track faces, and answer once per person.

`decoding` reads files and live sources, `tracks` follows faces from frame to frame, `persons` combines the
faces of a track into one answer and joins tracks, `analysis` does all of these for one video, and `drawing`
writes the annotated video and the summary. Nothing here opens a connection to a service: whoever analyses a
video passes a function that answers images (`analysis.Observe`).
"""
