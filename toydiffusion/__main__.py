"""`python -m toydiffusion` is the command `toydiffusion`."""

import sys

from toydiffusion.cli import main

sys.exit(main())
