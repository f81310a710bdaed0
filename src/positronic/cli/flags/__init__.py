"""Flags that several commands have: how a run is trained, how text is drawn, what a conversation leaves behind."""
