"""``python -m hantune``."""

import sys

from hantune.cli import main

sys.exit(main())
