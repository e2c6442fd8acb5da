"""Golden values of the transformer from PyTorch in f64: forward, loss, gradient norm and three AdamW steps.

Usage: python golden_transformer.py > ../../lab/tests/golden/transformer.json
Needs torch. Weights follow a formula both sides compute, so the file holds results only.
"""
import json
import math

import torch

torch.set_default_dtype(torch.float64)


def pattern(count, place):
    return [math.sin(0.7 * index + 1.3 * place) * 0.5 + (0.05 if index % 3 == 0 else 0.0) for index in range(count)]


def names(case):
    dim, mlp, vocab, length = case["dim"], case["mlp"], case["vocab"], case["length"]
    shapes = [("embedding.token", [vocab, dim])]
    if case["positions"] == "learned":
        shapes.append(("embedding.position", [length, dim]))
    for layer in range(case["layers"]):
        block = f"blocks.{layer}"
        if case["norm"] != "none":
            shapes += [(f"{block}.norm1.gain", [dim]), (f"{block}.norm1.bias", [dim])]
        for part in ["query", "key", "value", "output"]:
            shapes.append((f"{block}.attention.{part}", [dim, dim]))
            if case["attention_bias"]:
                shapes.append((f"{block}.attention.{part}_bias", [dim]))
        if case["norm"] != "none":
            shapes += [(f"{block}.norm2.gain", [dim]), (f"{block}.norm2.bias", [dim])]
        if case["activation"] == "geglu":
            shapes += [(f"{block}.mlp.gate", [dim, mlp]), (f"{block}.mlp.gate_bias", [mlp])]
        shapes += [(f"{block}.mlp.up", [dim, mlp]), (f"{block}.mlp.up_bias", [mlp])]
        shapes += [(f"{block}.mlp.down", [mlp, dim]), (f"{block}.mlp.down_bias", [dim])]
    if case["norm"] == "pre":
        shapes += [("final_norm.gain", [dim]), ("final_norm.bias", [dim])]
    if not case["tied"]:
        shapes.append(("read_out.weight", [dim, vocab]))
    return shapes


def sinusoids(length, dim):
    table = torch.zeros(length, dim)
    for position in range(length):
        for index in range(dim):
            angle = position / 10000 ** ((index // 2 * 2) / dim)
            table[position, index] = math.sin(angle) if index % 2 == 0 else math.cos(angle)
    return table


def rotate(x):
    # x: [B, H, T, h], half-split pairs
    half = x.shape[-1] // 2
    position = torch.arange(x.shape[2]).double()[:, None]
    angle = position / 10000 ** (torch.arange(half).double() / half)
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)


def forward(case, p, tokens):
    F = torch.nn.functional
    dim, heads = case["dim"], case["heads"]
    batch, length = tokens.shape
    norm = lambda x, name: F.layer_norm(x, (dim,), p[name + ".gain"], p[name + ".bias"])
    linear = lambda x, name: x @ p[name] + (p[name + "_bias"] if name + "_bias" in p else 0)
    x = p["embedding.token"][tokens]
    if case["positions"] == "learned":
        x = x + p["embedding.position"]
    if case["positions"] == "sinusoidal":
        x = x + sinusoids(length, dim)
    for layer in range(case["layers"]):
        block = f"blocks.{layer}"
        h = norm(x, f"{block}.norm1") if case["norm"] == "pre" else x
        q, k, v = [
            linear(h, f"{block}.attention.{part}").view(batch, length, heads, -1).transpose(1, 2)
            for part in ["query", "key", "value"]
        ]
        if case["positions"] == "rotary":
            q, k = rotate(q), rotate(k)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=case["causal"])
        x = x + linear(a.transpose(1, 2).reshape(batch, length, dim), f"{block}.attention.output")
        if case["norm"] == "post":
            x = norm(x, f"{block}.norm1")
        h = norm(x, f"{block}.norm2") if case["norm"] == "pre" else x
        up = linear(h, f"{block}.mlp.up")
        if case["activation"] == "relu":
            hidden = up.relu()
        elif case["activation"] == "gelu":
            hidden = F.gelu(up)
        else:
            hidden = F.gelu(linear(h, f"{block}.mlp.gate")) * up
        x = x + linear(hidden, f"{block}.mlp.down")
        if case["norm"] == "post":
            x = norm(x, f"{block}.norm2")
    x = x[:, -1]
    if case["norm"] == "pre":
        x = norm(x, "final_norm")
    return x @ (p["embedding.token"].T if case["tied"] else p["read_out.weight"])


def run(case):
    p = {}
    for place, (name, shape) in enumerate(names(case)):
        values = torch.tensor(pattern(math.prod(shape), place)).view(shape)
        p[name] = (values + 1.0 if name.endswith("gain") else values).requires_grad_()
    vocab, length = case["vocab"], case["length"]
    tokens = torch.tensor([[(3 * b + 5 * t + b * t) % vocab for t in range(length)] for b in range(6)])
    targets = torch.tensor([(2 * b + 1) % vocab for b in range(6)])
    optimizer = torch.optim.AdamW(p.values(), lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.5)
    result = {"case": case, "losses": [], "norms": []}
    for step in range(3):
        optimizer.zero_grad()
        logits = forward(case, p, tokens)
        if step == 0:
            result["logits"] = logits.flatten().tolist()
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(p.values(), case["clip"])
        optimizer.step()
        result["losses"].append(loss.item())
        result["norms"].append(norm.item())
    result["sums"] = {name: value.sum().item() for name, value in p.items()}
    result["squares"] = {name: value.square().sum().item() for name, value in p.items()}
    return result


base = dict(layers=2, heads=2, dim=8, mlp=12, vocab=7, length=3, activation="relu", norm="pre", attention_bias=False,
            tied=False, positions="learned", causal=True, clip=1e9)
cases = [
    base,
    {**base, "norm": "post", "activation": "gelu", "positions": "sinusoidal", "attention_bias": True, "clip": 0.3},
    {**base, "norm": "none", "activation": "geglu", "positions": "rotary", "tied": True, "clip": 0.5},
    {**base, "causal": False, "positions": "none", "layers": 1, "heads": 4},
]
print(json.dumps([run(case) for case in cases], indent=1))
