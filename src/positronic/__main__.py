"""`python -m positronic` is the command line."""

import sys

from positronic.cli import main

sys.exit(main())
