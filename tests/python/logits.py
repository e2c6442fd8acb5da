"""Outputs of a Plateau checkpoint, computed with NumPy from its safetensors file.

Usage: logits.py CHECKPOINT_FOLDER < TOKENS.json > OUTPUTS.json

TOKENS.json is a list of equally long token lists. Written independently of the Rust code: the layout of the parameters is
the one in the checkpoint (linear maps are [in, out]), the settings are read from manifest.json.
"""

import json
import math
import sys
from pathlib import Path

import numpy
from safetensors.numpy import load_file


def layer_norm(x, gain, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / numpy.sqrt(variance + 1e-5) * gain + bias


def softmax(x):
    exponentials = numpy.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1.0 + numpy.vectorize(math.erf)(x / math.sqrt(2.0)))


def sinusoidal(length, dim):
    table = numpy.zeros((length, dim))
    for position in range(length):
        for index in range(dim):
            angle = position / 10_000 ** (index // 2 * 2 / dim)
            table[position, index] = math.sin(angle) if index % 2 == 0 else math.cos(angle)
    return table


def rotate(x):
    """x: [B, H, T, e]; half-split pairs, base 10 000."""
    length, width = x.shape[-2:]
    half = width // 2
    angle = numpy.outer(numpy.arange(length), 10_000.0 ** (-numpy.arange(half) * 2 / width))
    first, second = x[..., :half], x[..., half:]
    cos, sin = numpy.cos(angle), numpy.sin(angle)
    return numpy.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


class Model:
    def __init__(self, folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        self.settings = manifest["config"]["model"]
        weights = load_file(folder / "weights.safetensors")
        self.weights = {name: value.astype(numpy.float64) for name, value in weights.items()}

    def map(self, name, x):
        y = x @ self.weights[name]
        bias = self.weights.get(name + "_bias")
        return y if bias is None else y + bias

    def norm(self, name, x):
        return layer_norm(x, self.weights[name + ".gain"], self.weights[name + ".bias"])

    def attention(self, name, x):
        batch, length, dim = x.shape
        heads = self.settings["heads"]
        split = lambda y: y.reshape(batch, length, heads, dim // heads).transpose(0, 2, 1, 3)
        q, k, v = (split(self.map(f"{name}.attention.{part}", x)) for part in ("query", "key", "value"))
        if self.settings["positions"] == "rotary":
            q, k = rotate(q), rotate(k)
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(dim // heads)
        if self.settings["causal"]:
            scores = numpy.where(numpy.tri(length, dtype=bool), scores, -numpy.inf)
        mixed = (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, length, dim)
        return self.map(f"{name}.attention.output", mixed)

    def mlp(self, name, x):
        up = self.map(f"{name}.mlp.up", x)
        activation = self.settings["activation"]
        if activation == "geglu":
            hidden = gelu(self.map(f"{name}.mlp.gate", x)) * up
        else:
            hidden = gelu(up) if activation == "gelu" else numpy.maximum(up, 0.0)
        return self.map(f"{name}.mlp.down", hidden)

    def outputs(self, tokens):
        """tokens: [B, T]; outputs at the last position, [B, outputs]."""
        norm = self.settings["norm"]
        x = self.weights["embedding.token"][tokens]
        if self.settings["positions"] == "learned":
            x = x + self.weights["embedding.position"][: tokens.shape[1]]
        if self.settings["positions"] == "sinusoidal":
            x = x + sinusoidal(*x.shape[1:])
        for layer in range(self.settings["layers"]):
            name = f"blocks.{layer}"
            for branch, normed in ((self.attention, "norm1"), (self.mlp, "norm2")):
                inner = self.norm(f"{name}.{normed}", x) if norm == "pre" else x
                x = x + branch(name, inner)
                if norm == "post":
                    x = self.norm(f"{name}.{normed}", x)
        if norm == "pre":
            x = self.norm("final_norm", x)
        x = x[:, -1]
        read_out = self.weights["embedding.token"].T if self.settings["tied"] else self.weights["read_out.weight"]
        return x @ read_out + self.weights.get("read_out.bias", 0.0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = Model(Path(sys.argv[1]))
    json.dump(model.outputs(numpy.array(json.load(sys.stdin))).tolist(), sys.stdout)
