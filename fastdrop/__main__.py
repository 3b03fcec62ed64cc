# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastdrop``: what runs here, whether it is right, and how fast it is."""

import sys

from fastdrop._tools.command_line import main

if __name__ == "__main__":
    sys.exit(main())
