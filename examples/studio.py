"""The graphs that LangGraph Studio shows: starts the development server on this checkout's
langgraph.json, has `recover` solve a problem, and prints every update as it is streamed.

Needs `pip install 'recov-graph[studio]'`, in a checkout `make studio` or `.venv/bin/pip install -e
'.[studio]'`. To look at it in Studio, run `make studio` in the checkout. With a real model:
RECOV_GRAPH_MODEL=openai:gpt-5-mini RECOV_GRAPH_VERIFIER=numeric OPENAI_API_KEY=... python
examples/studio.py
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from langgraph_sdk import get_sync_client

CONFIG = Path(__file__).resolve().parent.parent / "langgraph.json"
PROBLEM = {"prompt": "68*26?", "answer": 1768, "id": "product-3-026", "task": "product"}


def wait_for(server, client):
    """Return once the server answers."""
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            return client.assistants.search()
        except Exception:
            time.sleep(0.1)
    sys.exit("the development server did not start")


if find_spec("langgraph_cli") is None or find_spec("langgraph_api") is None:
    print("The development server is not installed: pip install 'recov-graph[studio]'")
    print("In a checkout: make studio, or .venv/bin/pip install -e '.[studio]'")
    sys.exit()

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
command += ["--config", str(CONFIG), "--host", "127.0.0.1", "--port", str(port)]
with tempfile.TemporaryDirectory() as folder:  # the server keeps files where it is started
    server = subprocess.Popen(
        command,
        cwd=folder,
        env={
            "RECOV_GRAPH_DB": str(Path(folder, "traces.db")),
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGSMITH_TRACING": "false",
            **os.environ,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = get_sync_client(url=f"http://127.0.0.1:{port}")
        found = wait_for(server, client)
        print("graphs:", *sorted(one["graph_id"] for one in found))
        for part in client.runs.stream(
            None,  # a run of its own, in no thread
            "recover",
            input={"problem": PROBLEM},
            context={"seed": 0},
            stream_mode=["updates", "custom", "values"],
        ):
            if part.event == "updates":
                print("done:", *part.data)
            elif part.event == "custom" and part.data["type"] == "attempt":
                print(f"  {part.data['operator']}: {part.data['verdict']['value']}")
            elif part.event == "custom" and part.data["type"] == "decision":
                print(f"  {part.data['reason']}")
            elif part.event == "values":
                result = part.data
        print(f"{result['stop_reason']}: {result['answer']}")
    finally:
        server.terminate()
        server.wait()
