"""Documents through a tokenizer, kept as shards, cut into tables of rows."""
