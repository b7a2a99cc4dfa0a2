"""`check_extensions.py RENDERED`: reads the objects of Kubernetes' extensions by their published schemas, and writes
them again: a field that is misspelt is lost on the way.
"""

import json
import sys
from pathlib import Path

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

KINDS = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}

for written in yaml.safe_load_all(Path(sys.argv[1]).read_text()):
    if (kind := KINDS.get(written["kind"])) is not None:
        understood = kind.model_validate(written).model_dump_json(by_alias=True, exclude_unset=True)
        if json.loads(understood) != written:
            raise SystemExit(f"of {written} only this is known: {understood}")
