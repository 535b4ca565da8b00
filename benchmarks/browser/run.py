"""A bundle for GPUs in Chromium: onnxruntime-web's WebGPU provider against the CPU provider.

`python benchmarks/browser/run.py BUNDLE --chromium PATH --ort DIR`: DIR is `dist` of the npm
package onnxruntime-web. With `--software` the adapter is Chromium's SwiftShader.
"""
from __future__ import annotations

import argparse
import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.runtime.manifest import Manifest, read_manifest
from edgecompile.runtime.onnxruntime_decoder import cache_names
from edgecompile.runtime.worker_client import Worker

TEXT = "A bundle carries a few sentences like this one, and what it answered."
HERE = Path(__file__).parent
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
SOFTWARE = ("--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader")


def main() -> None:
    """Serve the bundle, open Chromium, print a row a way of asking."""
    options = _options()
    info = read_manifest(options.bundle)
    with Worker(options.bundle, verify="never", provider="cpu") as worker:
        ids = worker.tokenize([TEXT])[0][: options.tokens]
        expected = _expected(worker, info, ids)
    print("| bundle | how | largest error by position | ms |\n|---|---|---|---|")
    for answer in _answers(options, _given(info, ids)):
        if "logits" not in answer:
            print(f"<!-- {json.dumps(answer)} -->")
            continue
        found = np.array(answer["logits"], np.float32).reshape(expected.shape)
        errors = " ".join(f"{e:.0e}" for e in np.abs(found - expected).max(axis=1))
        times = " ".join(f"{t:.0f}" for t in answer["milliseconds"])
        print(f"| {options.bundle.name} | {answer['how']} | {errors} | {times} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--chromium", required=True, type=Path)
    parser.add_argument("--ort", required=True, type=Path)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--software", action="store_true")
    parser.add_argument("--seconds", type=float, default=600)
    return parser.parse_args()


def _expected(worker: Worker, info: Manifest, ids: list[int]) -> Any:
    if info.task == "text-generation":
        return np.concatenate([chunk.copy() for chunk in worker.logits(ids)])
    return worker.embed_ids([ids])


def _given(info: Manifest, ids: list[int]) -> dict[str, Any]:
    options = dict(info.engine.options)
    caches = cache_names(options) if info.task == "text-generation" else ()
    return {
        "task": info.task, "file": info.engine.file, "ids": ids, "options": options,
        "past": [past for past, _ in caches], "present": [present for _, present in caches],
    }  # fmt: skip


def _answers(options: argparse.Namespace, given: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page posted until it was done."""
    answers: list[dict[str, Any]] = []
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            folders = {"ort": options.ort, "bundle": options.bundle, "page": HERE}
            first, _, rest = self.path.strip("/").partition("/")
            file = folders.get(first, HERE) / rest
            if self.path == "/given.json":
                self._send(json.dumps(given).encode(), "application/json")
            elif first in folders and file.is_file():
                kind = TYPES.get(file.suffix, "application/octet-stream")
                self._send(file.read_bytes(), kind)
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers.append(answer)
            self._send(b"", "text/plain")
            if answer.get("done"):
                done.set()

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _browse(options, f"http://127.0.0.1:{server.server_port}/page/page.html", done)
        server.shutdown()
    return answers


def _browse(options: argparse.Namespace, page: str, done: threading.Event) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu"]
        flags += [f"--user-data-dir={profile}", *(SOFTWARE if options.software else ())]
        command = [str(options.chromium), *flags, page]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as browser:
            if not done.wait(options.seconds):
                print(f"no answer in {options.seconds:.0f} s", file=sys.stderr)
            browser.terminate()


if __name__ == "__main__":
    main()
