"""What the engines are told about threads; no graph is run."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from opendetr.engines import onnxruntime_engine, openvino_engine


@pytest.fixture(params=[1, 3])
def number(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_onnx_runtime_takes_the_chosen_number_and_sleeps_while_it_waits(number, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: options)
    options = onnxruntime_engine.OnnxRuntimeEngine(Path("model.onnx")).session
    assert options.intra_op_num_threads == number
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_openvino_takes_the_chosen_number_and_binds_no_thread_to_a_core(number, monkeypatch):
    pytest.importorskip("openvino")
    told = []
    core = SimpleNamespace(read_model=lambda path: "graph", compile_model=lambda *arguments: told.append(arguments))
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: core)
    openvino_engine.OpenVinoEngine(Path("model.xml"))._compile()
    ((_, device, settings),) = told
    assert device == "CPU"
    assert (settings["INFERENCE_NUM_THREADS"], settings["ENABLE_CPU_PINNING"]) == (number, False)
