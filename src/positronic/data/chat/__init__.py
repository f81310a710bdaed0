"""Conversations and pairs of answers: the formats in which they are published, and what of them is learned."""
