"""Speeds beside their peers, measured in the same run. Each file is a command that writes one JSON to results/."""
