# SPDX-License-Identifier: BSD-3-Clause
"""The version, in the one place where it is written."""

__version__ = "0.1.0"
