"""The folder of a recorded run, as `validate runs` and a simulation's ``--trace`` read it.

``run.json`` has the settings and measurements; ``requests.csv`` has every sent request by time, and is a trace;
``chunks.csv`` has the time of every chunk.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..show.output import OutputFolder
from ..validate.runs.spec import RECORDED, SYSTEM
from .client import NOT_SENT
from .recording import Recording


def write_recording(result: Recording, folder: OutputFolder) -> None:
    """Write the files of a run, whole or cut."""
    folder.csv("requests.csv", _requests(result))
    folder.csv("chunks.csv", _chunks(result))
    if result.server.config is not None:
        folder.json("config.json", result.server.config)
    if result.server.description is not None:
        folder.text(SYSTEM, result.server.description)
    folder.json("run.json", run_json(result))


def run_json(result: Recording) -> dict[str, Any]:
    """The object of ``run.json``."""
    server, target = result.server, result.target
    engine = dict(server.engine)
    version = target.version and re.match(r"\d+\.\d+", target.version)  # as vLLM's versions are written
    if version and "version" not in engine and "engine_version" not in engine:
        engine["version"] = target.version
    return {
        "run": result.name,
        "origin": f"opbyte record {target.url}",
        **({} if server.device is None else {"device": server.device, "devices": server.devices}),
        **({} if server.description is None else {"system": SYSTEM}),
        **({} if server.config is None else {"model": "config.json"}),
        "checkpoint": target.model,
        "engine": engine,
        "workload": _workload(result),
        "measured": [_measured(result)] if result.answered else [],
        "recorded": {
            "cut": result.cut or None, "requests": len(result.outcomes), "sent": len(result.sent),
            "not_sent": sum(o.status == NOT_SENT for o in result.outcomes),
            "failed": result.failed,
            **({"examples": result.examples} if result.examples else {}), "late_p99_s": result.lateness(),
            "stall_p99_s": result.stall(),
        },
        "assumed": _assumed(result),
    }  # fmt: skip


def _workload(result: Recording) -> dict[str, Any]:
    """Return the workload; the stage is a summary, the requests are in the table."""
    sent = [result.outcomes[i].sent_s for i in result.sent]
    inputs = [result.input_tokens(i) for i in result.sent]
    outputs = [result.output_tokens(i) for i in result.sent]
    span = max(max(sent), 1e-3) if sent else 0.0
    return {
        "name": result.workload,
        "arrivals": RECORDED,
        "requests": "requests.csv",
        "closed_loop": None if result.due_s is not None else result.places,
        "stages": [{"rate": len(sent) / span, "duration_s": span}] if sent else [],
        "prompts": {
            "distinct": len(inputs), "tokens_mean": float(np.mean(inputs)),
            "tokens_min": min(inputs), "tokens_max": max(inputs),
            "kind": "ids" if result.target.ids else "words",
        } if inputs else {},
        **({"output_tokens": outputs[0]} if len(set(outputs)) == 1 else {}),
    }  # fmt: skip


def _measured(result: Recording) -> dict[str, Any]:
    count, failed = len(result.answered), sum(result.failed.values())
    last = max(result.outcomes[i].ended_s for i in result.answered)
    return {"stage": 0, "requests": count, "failed": failed, "achieved_rate": count / last, **result.measured()}


def _assumed(result: Recording) -> list[str]:
    out = ["timestamps are the client's: a chunk gets one when its bytes are read"]
    if any(result.outcomes[i].prompt_tokens is None for i in result.answered):
        out.append("input_tokens: as asked for; the server did not say how many it counted")
    if not result.target.extras:
        out.append("output_tokens: the server takes no ignore_eos; outputs may end early")
    return out


def _requests(result: Recording) -> dict[str, Any]:
    """One row a request that was sent, in the order of sending."""
    rows = result.sent
    outcomes = [result.outcomes[i] for i in rows]
    nan = float("nan")
    due = np.full(len(rows), nan) if result.due_s is None else result.due_s[rows]
    return {
        "request_id": result.trace.request_id[rows],
        "arrival_s": np.array([o.sent_s for o in outcomes]),
        "input_tokens": np.array([result.input_tokens(i) for i in rows], dtype=np.int64),
        "output_tokens": np.array([result.output_tokens(i) for i in rows], dtype=np.int64),
        "first_token_s": np.array([o.chunks[0] if o.chunks else nan for o in outcomes]),
        "last_token_s": np.array([o.chunks[-1] if o.chunks else nan for o in outcomes]),
        "ended_s": np.array([o.ended_s for o in outcomes]),
        "due_s": due,
        "chunks": np.array([len(o.chunks) for o in outcomes], dtype=np.int64),
        "status": np.array([o.status for o in outcomes], dtype=object),
    }


def _chunks(result: Recording) -> dict[str, Any]:
    """One row a chunk, request by request."""
    chunks = [(int(result.trace.request_id[i]), result.outcomes[i].chunks) for i in result.sent]
    return {
        "request_id": np.repeat(
            np.array([i for i, _ in chunks], dtype=np.int64), [len(stamps) for _, stamps in chunks]
        ),
        "received_s": np.concatenate([np.zeros(0), *(np.frombuffer(stamps) for _, stamps in chunks)]),
    }
