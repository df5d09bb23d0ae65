"""Lets `python -m logpx` do what `logpx` does."""

import sys

from .cli import main

sys.exit(main())
