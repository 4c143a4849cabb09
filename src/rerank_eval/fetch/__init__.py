"""Brings what a run will read into folders that `data_root` and `model_root` take."""
