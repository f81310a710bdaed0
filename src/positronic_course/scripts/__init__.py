"""What the course can do from a command line; every script also runs as `positronic course NAME`."""
