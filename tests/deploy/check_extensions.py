"""`check_extensions.py RENDERED...`: reads the objects of Kubernetes' extensions by their published schemas, and writes
them again: a field that is misspelt is lost on the way.
"""

import json
import sys
from pathlib import Path

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

KINDS = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}

objects = [each for path in sys.argv[1:] for each in yaml.safe_load_all(Path(path).read_text())]
extensions = [each for each in objects if each["kind"] in KINDS]
for written in extensions:
    understood = KINDS[written["kind"]].model_validate(written).model_dump_json(by_alias=True, exclude_unset=True)
    if json.loads(understood) != written:
        raise SystemExit(f"of {written} only this is known: {understood}")
print(f"{len(extensions)} as they were")
