"""Lists the packages: all found under src/, and conf/ as `ldm.conf` (pyproject.toml cannot say both)."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), "ldm.conf"])
