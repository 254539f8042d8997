"""`python -m minildm` is `minildm`."""

import sys

from minildm.engine.cli import main

sys.exit(main())
