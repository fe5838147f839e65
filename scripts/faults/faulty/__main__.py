"""Injects the fault that FAULT names, and starts the service."""

import os
import runpy

from .injection import inject

inject(os.environ["FAULT"], setattr)
runpy.run_module("app", run_name="__main__", alter_sys=True)
