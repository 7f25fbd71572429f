"""Manifests that start the replicas of a plan: Docker Compose, Kubernetes with Dynamo, or with llm-d.

Schemas: the Compose specification (devices by number; nginx distributes requests round-robin);
``DynamoGraphDeployment`` of nvidia.com/v1alpha1, for operators of Dynamo 0.4 to 1.7; values of the chart
llm-d-modelservice 0.4. Engine options come from `launch`. Secrets and storage are left to the user.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ...workloads.errors import InputError
from .launch import VERSIONS, Launch

IMAGES = {
    "vllm": "vllm/vllm-openai:v", "sglang": "lmsysorg/sglang:v", "tensorrt-llm": "nvcr.io/nvidia/tensorrt-llm/release:",
}  # fmt: skip
"""Container images of engines, without the version at the end."""
DYNAMO, ROUTER, LLM_D = "1.4.0", "nginx:1.27", "ghcr.io/llm-d/llm-d-cuda:v0.3.0"
WORKERS = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Names of Dynamo's backend modules."""
RUNTIMES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "tensorrtllm"}
OPTIONS, CACHE = "/tmp/options.yaml", "/var/cache/huggingface"
PORT = 8000


@dataclass(frozen=True, slots=True)
class Copies:
    """Replicas of an engine and their devices."""

    engine: str
    launch: Launch
    copies: int
    devices: int
    node: int

    @property
    def serves(self) -> list[str]:
        """Return the program and arguments of a server that listens at `PORT` on all addresses."""
        host = [] if self.engine == "vllm" else ["--host", "0.0.0.0"]  # in a container
        words = [*self.launch.words, *host, "--port", str(PORT)]
        if not self.launch.file:
            return words
        return _with_options([*words, "--extra_llm_api_options", OPTIONS], self.launch.file)


def _with_options(words: list[str], options: Mapping[str, Any]) -> list[str]:
    """Return a shell command that writes a file of options and then starts the program."""
    text = yaml.safe_dump(dict(options), sort_keys=False)
    return ["sh", "-c", f"cat > {OPTIONS} <<'END'\n{text}END\nexec {shlex.join(words)}\n"]


def _compose(copies: Copies) -> dict[str, Any]:
    """Return a Docker Compose file that starts the replicas."""
    if copies.copies * copies.devices > copies.node:
        raise InputError(
            "--emit compose",
            f"starts one host of {copies.node} devices, not {copies.copies * copies.devices:,}; use llm-d or dynamo for more",
        )
    names = [f"engine-{i}" for i in range(copies.copies)]
    services: dict[str, Any] = {}
    for i, name in enumerate(names):
        ids = [str(j) for j in range(i * copies.devices, (i + 1) * copies.devices)]
        reserved = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
        services[name] = {
            "image": IMAGES[copies.engine] + VERSIONS[copies.engine], "entrypoint": copies.serves, "ipc": "host",
            "environment": {"HF_TOKEN": "${HF_TOKEN}", "HF_HOME": CACHE},
            "volumes": [f"${{HF_HOME:-~/.cache/huggingface}}:{CACHE}"],
            "deploy": {"resources": {"reservations": {"devices": [reserved]}}},
        }  # fmt: skip
    if copies.copies == 1:
        return {"services": {names[0]: services[names[0]] | {"ports": [f"{PORT}:{PORT}"]}}}
    servers = "".join(f"  server {name}:{PORT};\n" for name in names)
    passes = "proxy_pass http://engines; proxy_buffering off; proxy_read_timeout 1h;"
    text = f"upstream engines {{\n{servers}}}\nserver {{ listen {PORT}; location / {{ {passes} }} }}\n"
    services["router"] = {
        "image": ROUTER, "ports": [f"{PORT}:{PORT}"], "depends_on": names,
        "configs": [{"source": "router", "target": "/etc/nginx/conf.d/default.conf"}],
    }  # fmt: skip
    return {"services": services, "configs": {"router": {"content": text}}}


def _dynamo(copies: Copies) -> dict[str, Any]:
    """Return a DynamoGraphDeployment that starts the replicas."""
    if copies.launch.keys.get("data_parallel_size"):
        raise InputError("--emit dynamo", "cannot start data-parallel ranks of vLLM; use llm-d")
    runs = ["python3", "-m", f"dynamo.{WORKERS[copies.engine]}"]
    if copies.engine == "tensorrt-llm":
        words = [*runs, "--model-path", copies.launch.model, "--extra-engine-args", OPTIONS]
        words = _with_options(words, _api_keys(copies.launch.keys))
    else:
        at = copies.launch.words.index(copies.launch.model)
        name = "--model" if copies.engine == "vllm" else "--model-path"
        words = [*runs, name, *copies.launch.words[at:]]
    image = f"nvcr.io/nvidia/ai-dynamo/{RUNTIMES[copies.engine]}-runtime:{DYNAMO}"
    nodes = -(-copies.devices // copies.node)
    program = 2 if words[0] == "sh" else len(runs)
    main = {"image": image, "command": words[:program], "args": words[program:]}
    worker = {
        "componentType": "worker", "envFromSecret": "hf-token-secret", "replicas": copies.copies,
        **({"multinode": {"nodeCount": nodes}} if nodes > 1 else {}),
        "resources": {"limits": {"gpu": str(copies.devices // nodes)}},
        "extraPodSpec": {"mainContainer": main},
    }  # fmt: skip
    front = {
        "componentType": "frontend", "replicas": 1,
        "envs": [{"name": "DYN_ROUTER_MODE", "value": "round-robin"}],
        "extraPodSpec": {"mainContainer": {"image": image}},
    }  # fmt: skip
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": _name(copies.launch.model)},
        "spec": {"backendFramework": WORKERS[copies.engine], "services": {"Frontend": front, "Worker": worker}},
    }


def _api_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys as TensorRT-LLM's `LlmArgs` takes them: the cache's share of memory is in a nested object."""
    out = dict(keys)
    share = out.pop("kv_cache_free_gpu_memory_fraction", None)
    if share is not None:
        out["kv_cache_config"] = {**out.get("kv_cache_config", {}), "free_gpu_memory_fraction": share}
    return out


def _llm_d(copies: Copies) -> dict[str, Any]:
    """Return the values of llm-d's chart that start the replicas."""
    if copies.engine != "vllm":
        raise InputError("--emit llm-d", f"starts only vLLM, not {copies.engine}; use dynamo or compose")
    if copies.devices > copies.node:
        raise InputError(
            "--emit llm-d", f"starts replicas of at most one node, {copies.node} devices; use dynamo for larger ones"
        )
    ranks = int(copies.launch.keys.get("data_parallel_size", 1))
    words = copies.serves
    container = {
        "name": "vllm", "image": LLM_D, "modelCommand": "custom", "command": words[:2],
        "args": words[2:], "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "mountModelVolume": True,
    }  # fmt: skip
    return {
        "modelArtifacts": {"name": copies.launch.model, "uri": f"hf://{copies.launch.model}",
                           "authSecretName": "hf-token-secret",
                           "labels": {"llm-d.ai/model": _name(copies.launch.model)}},
        "routing": {"servicePort": PORT, "proxy": {"enabled": False}},
        "decode": {"create": True, "replicas": copies.copies,
                   "parallelism": {"tensor": copies.devices // ranks, "data": ranks},
                   "containers": [container]},
        "prefill": {"create": False},
    }  # fmt: skip


WRITERS: Mapping[str, Callable[[Copies], dict[str, Any]]] = {"compose": _compose, "dynamo": _dynamo, "llm-d": _llm_d}
USED = {
    "compose": "docker compose -f compose.yaml up",
    "dynamo": "kubectl apply -f dynamo.yaml",
    "llm-d": "helm install NAME llm-d-modelservice/llm-d-modelservice -f llm-d.yaml",
}
"""Command that applies a manifest, by the manifest's name."""


def manifest(name: str, copies: Copies) -> str:
    """Return the text of a manifest that starts all replicas."""
    body = yaml.safe_dump(WRITERS[name](copies), sort_keys=False, width=10_000)
    return f"# {USED[name]}\n{body}"


def _name(model: str) -> str:
    """Return a model name in the form that Kubernetes accepts.

    Examples
    --------
    >>> _name("meta-llama/Llama-3.3-70B")
    'llama-3-3-70b'
    """
    short = model.rpartition("/")[2].lower()
    return "".join(x if x.isascii() and x.isalnum() else "-" for x in short).strip("-")[:50]
