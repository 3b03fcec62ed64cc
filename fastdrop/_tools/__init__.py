# SPDX-License-Identifier: BSD-3-Clause
"""What the command line is made of. Nothing here is imported with the package."""
