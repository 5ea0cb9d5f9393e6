"""The embedding container: images in, faces with embeddings out."""
