"""Documents out of files and data sets: where text comes from, and what of it is held out."""
