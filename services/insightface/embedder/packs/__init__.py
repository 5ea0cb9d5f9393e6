"""Packs: models that together find faces and embed them, behind one interface."""
