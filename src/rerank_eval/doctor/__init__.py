"""Finds out in under a minute whether a set-up is right: packages, device, disks, data, models and their answers."""
