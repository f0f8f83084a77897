"""`python -m zkaudit.cli` is the `zkaudit` command."""

import sys

from zkaudit.cli.command_line import main

sys.exit(main())
