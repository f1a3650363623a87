"""What runs a bundle sends nothing to anybody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

RUN = """
import builders

import numpy, onnxruntime, time
from onnx import TensorProto, helper

value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": numpy.ones(1, numpy.float32)})
import onnxruntime_genai
time.sleep(12)  # they are sent after some seconds
"""


def test_the_runtimes_send_no_usage_events() -> None:
    """Without the variable that builders sets, a request for mobile.events.data.microsoft.com arrives here."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    received.append(connection.recv(200))

        threading.Thread(target=listen, daemon=True).start()
        kept = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "https_proxy")}
        kept.pop("ORT_DISABLE_TELEMETRY", None)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = kept | {"https_proxy": address, "PYTHONPATH": str(Path(__file__).parents[3])}
        subprocess.run([sys.executable, "-c", RUN], env=environment, check=True, timeout=120)
        proxy.shutdown(socket.SHUT_RDWR)
    assert received == []
