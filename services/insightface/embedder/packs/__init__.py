"""Packs: models that together find and embed faces, behind one interface."""
