"""Extraction: from labelled images to embeddings, by jobs that can be killed and started again."""
