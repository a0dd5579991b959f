"""Where the project's own files lie: in a checkout, or among the packages where it was installed from a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent
"""The checkout, or the folder of all packages."""
FROM_WHEEL = (PACKAGE / "conf").is_dir()
CONF = (PACKAGE if FROM_WHEEL else PROJECT) / "conf"
