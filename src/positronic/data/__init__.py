"""Documents -> token shards -> rows -> a weighted mixture: everything between a file on disk and a `TokenBatch`."""

from positronic.data.batch import BatchSource, TokenBatch
from positronic.data.mixture import Mixture, Rows, Weighted

__all__ = ["BatchSource", "Mixture", "Rows", "TokenBatch", "Weighted"]
