"""The identities that tie the rungs together, a chapter a file; a file here is found by being here."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, __name__ + "."):
    importlib.import_module(_module.name)
