"""What a kubelet gives the containers of the relay's pods: variables, mounted files, a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Resource = dict[str, Any]


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    """The resources of a kind."""
    return [each for each in resources if each["kind"] == kind]


def pod_of(resource: Resource) -> Resource:
    """The spec of the pods that a Deployment or a Job makes."""
    spec: Resource = resource["spec"]["template"]["spec"]
    return spec


def container_of(resource: Resource) -> Resource:
    """The relay's container of a Deployment or a Job."""
    (container,) = pod_of(resource)["containers"]
    found: Resource = container
    return found


def variables(resource: Resource, resources: list[Resource], pod_name: str = "outbox-relay-0") -> dict[str, str]:
    """The variables of a container, with those of the ConfigMaps that it names; the manifest's own win."""
    container = container_of(resource)
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(resources, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
        else:
            assert each["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}, each
            found[each["name"]] = pod_name
    return found


def mounts(resource: Resource) -> dict[str, Resource]:
    """The volumes of a container, by where they are mounted."""
    volumes = {each["name"]: each for each in pod_of(resource).get("volumes", [])}
    return {each["mountPath"]: volumes[each["name"]] for each in container_of(resource).get("volumeMounts", [])}


def write_volumes(resource: Resource, secrets: dict[str, dict[str, str]], folder: Path) -> dict[str, Path]:
    """Write the secrets that a container mounts as files; return the folder of each place where one is mounted."""
    found = {}
    for place, volume in mounts(resource).items():
        name = volume["secret"]["secretName"] if "secret" in volume else volume["configMap"]["name"]
        found[place] = folder / volume["name"]
        found[place].mkdir(exist_ok=True)
        for key, text in secrets[name].items():
            (found[place] / key).write_text(text)
    return found
