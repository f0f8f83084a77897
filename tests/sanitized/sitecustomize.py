"""Python reads this at its start from a folder of PYTHONPATH: the core is then that of the folder SANITIZED_CORE, or none."""

import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec


class SanitizedCore:
    """Before all other finders: modules that are not in the folder are missing, not taken from where zkaudit is installed."""

    names = ("_field", "_field_ifma", "_curve", "_curve_ifma", "_twin")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "zkaudit.zk" or name not in self.names:
            return None
        file = os.path.join(os.environ["SANITIZED_CORE"], name + EXTENSION_SUFFIXES[0])
        if not os.path.exists(file):
            raise ModuleNotFoundError(f"No sanitized {name}: {file}", name=fullname)
        return importlib.util.spec_from_file_location(fullname, file)


sys.meta_path.insert(0, SanitizedCore())  # type: ignore[arg-type]
