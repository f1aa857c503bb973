"""The manifest of the docs, against the fields of KubeRay's own definition."""

from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

ROOT = Path(__file__).parents[3]

# Of ray.io_rayservices.yaml of KubeRay 1.7, version v1; None is anything.
POD = {
    "spec": {
        "containers": [
            {
                "name": None,
                "image": None,
                "env": None,
                "ports": None,
                "resources": {"limits": None, "requests": None},
                "volumeMounts": None,
            }
        ],
        "terminationGracePeriodSeconds": None,
        "volumes": None,
    }
}
KNOWN = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None},
    "spec": {
        "serveConfigV2": None,
        "rayClusterConfig": {
            "rayVersion": None,
            "authOptions": {"mode": None},
            "enableInTreeAutoscaling": None,
            "headGroupSpec": {"rayStartParams": None, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": None,
                    "replicas": None,
                    "minReplicas": None,
                    "maxReplicas": None,
                    "rayStartParams": None,
                    "template": POD,
                }
            ],
        },
    },
}


def unknown(given: Any, known: Any, place: str = "") -> list[str]:
    """Fields that the definition does not have, or has of another kind."""
    if known is None:
        return []
    if type(given) is not type(known):
        return [place]
    if isinstance(given, list):
        return [each for item in given for each in unknown(item, known[0], place)]
    found = [f"{place}/{name}" for name in given if name not in known]
    for name in given.keys() & known.keys():
        found += unknown(given[name], known[name], f"{place}/{name}")
    return found


def test_the_manifest_has_the_form_of_a_rayservice() -> None:
    manifest = yaml.safe_load((ROOT / "docs/kuberay.yaml").read_text("utf-8"))
    assert unknown(manifest, KNOWN) == []
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    served = ServeDeploySchema(**yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    assert [each.import_path for each in served.applications] == ["app:server"]
    [group] = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    # A version that the page's extra installs in the image.
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8")
    version = manifest["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}\n" in lock


def test_a_field_of_another_name_is_found() -> None:
    assert unknown({"metadata": {"nam": "a"}}, KNOWN) == ["/metadata/nam"]
    assert unknown({"spec": []}, KNOWN) == ["/spec"]
