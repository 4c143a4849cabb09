"""Scoring engines: recipe, segments, packs, margins. Needs torch, transformers and numpy alone."""
