"""One file a command: a `Command` dataclass whose fields are its flags. No command imports another."""
