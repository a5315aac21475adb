"""Export one torch model to ONNX: ``python export_torch.py ID OUT FILE...``.

Runs in the virtual environment that ``fetch.py`` makes. FILE... are the model's files of
``catalogue.toml``, in its order. The exported graph must agree with the network it came from.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from train_letters import train_letters

OPSET = 17

# Of the largest output. float32 sums of some thousand terms in another order differ by about
# sqrt(1000) * 2**-24 = 2e-6 a layer, over tens of layers.
MAX_RELATIVE_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A network and how to trace it.

    Attributes:
        net: In evaluation mode.
        inputs: Example by input name, in the order of the network's arguments.
        output: Name of the only output.
        dynamic: Names of an input's or output's free axes.
        keep_batch_norm: Whether batch norms stay nodes; else the exporter folds them.
    """

    net: nn.Module
    inputs: Mapping[str, Tensor]
    output: str
    dynamic: Mapping[str, Mapping[int, str]]
    keep_batch_norm: bool = False


class SentenceEmbedding(nn.Module):
    """The mean of an encoder's last hidden states over the real tokens, of length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map (n, s) token ids and a 0/1 mask to (n, d)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).float()
        total = (hidden.last_hidden_state * mask).sum(1)
        return nn.functional.normalize(total / mask.sum(1).clamp(min=1e-9), dim=1)


def _batched(net: nn.Module, name: str, example: Tensor, output: str, *, keep: bool) -> Export:
    return Export(
        net=net.eval(),
        inputs={name: example},
        output=output,
        dynamic={name: {0: "N"}, output: {0: "N"}},
        keep_batch_norm=keep,
    )


def _efficientnet_lite(variant: int, size: int, files: list[Path]) -> Export:
    weights, package = files[0], files[1].parent
    sys.path.insert(0, str(package.parent))
    module = importlib.import_module(package.name)
    net = module.EfficientNet.from_name(f"efficientnet-lite{variant}")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return _batched(net, "image", torch.randn(1, 3, size, size), "logits", keep=False)


def _crepe(capacity: str, batch: int, files: list[Path]) -> Export:
    weights, source = files
    # The module wants only this constant of its package, whose own import needs an audio stack.
    stub = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = 360  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = stub
    spec = importlib.util.spec_from_file_location("crepe_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.Crepe(capacity)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return _batched(net, "frames", torch.randn(batch, 1024), "prob", keep=False)


def _minilm(files: list[Path]) -> Export:
    from transformers import AutoModel  # only here: slow to import

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(files[0]) as archive:
            for name in ("config.json", "model.safetensors"):
                Path(folder, name).write_bytes(archive.read(name))
        encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").float()
    ids, mask = torch.randint(1000, 20000, (2, 64)), torch.ones(2, 64, dtype=torch.int64)
    mask[1, 40:] = 0
    free = {0: "N", 1: "S"}
    return Export(
        net=SentenceEmbedding(encoder).eval(),
        inputs={"input_ids": ids, "attention_mask": mask},
        output="embedding",
        dynamic={"input_ids": free, "attention_mask": free, "embedding": {0: "N"}},
    )


def _letters(files: list[Path]) -> Export:
    return _batched(train_letters(files[0]), "x", torch.randn(1, 16), "logits", keep=False)


def _random(net: nn.Module) -> Export:
    image = torch.randn(1, 3, 224, 224)
    return _batched(networks.randomize(net, seed=0), "image", image, "logits", keep=True)


EXPORTS: Mapping[str, Callable[[list[Path]], Export]] = {
    "effnet_lite0": lambda files: _efficientnet_lite(0, 224, files),
    "effnet_lite1": lambda files: _efficientnet_lite(1, 240, files),
    "minilm_l6_v2": _minilm,
    "crepe_tiny": lambda files: _crepe("tiny", 4, files),
    "crepe_full": lambda files: _crepe("full", 4, files),
    "letters_mlp": _letters,
    "resnet18": lambda _: _random(networks.resnet(18)),
    "resnet50": lambda _: _random(networks.resnet(50)),
    "mobilenet_v2": lambda _: _random(networks.mobilenet_v2()),
}


def write_onnx(export: Export, out: Path) -> None:
    """Trace ``export`` into the file ``out`` with the TorchScript exporter."""
    mode = torch.onnx.TrainingMode
    torch.onnx.export(
        export.net,
        tuple(export.inputs.values()),
        str(out),
        input_names=list(export.inputs),
        output_names=[export.output],
        dynamic_axes={name: dict(axes) for name, axes in export.dynamic.items()},
        opset_version=OPSET,
        training=mode.PRESERVE if export.keep_batch_norm else mode.EVAL,
        do_constant_folding=not export.keep_batch_norm,
        dynamo=False,
    )


@torch.no_grad()
def check(export: Export, path: Path) -> None:
    """Compare the file with the network on the example inputs.

    Raises:
        RuntimeError: They differ by more than ``MAX_RELATIVE_ERROR`` of the largest output.
    """
    expected = export.net(*export.inputs.values()).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: value.numpy() for name, value in export.inputs.items()})
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= MAX_RELATIVE_ERROR:  # also true of a NaN
        raise RuntimeError(f"error must be at most {MAX_RELATIVE_ERROR} of the peak, got {error}")


def main(model_id: str, out: str, *files: str) -> None:
    """Export the model ``model_id`` to ``out``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    export = EXPORTS[model_id]([Path(file) for file in files])
    write_onnx(export, Path(out))
    check(export, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
