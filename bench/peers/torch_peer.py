"""What a PyTorch user would run instead of Plateau: the workloads of workloads.json as an ordinary PyTorch program.

    torch_peer.py measure [--device cpu|cuda] [--mode MODE] [--processes P] [--threads T] [--replicas K] [--seconds S]
                          WORKLOAD
    torch_peer.py trial --steps N --seed S --save FILE WORKLOAD
    torch_peer.py machine [--device cpu|cuda] [--processes P] [--seconds S]

`measure` prints replica-steps per second, the sum over P processes side by side. Modes: eager; compile (torch.compile);
reduce-overhead (torch.compile with its CUDA graphs); graphs (the whole step captured as one CUDA graph by hand); vmap
(K replicas through torch.func); vmap-graphs (both). `trial` is one training run, as a script of a user's shell loop.
`machine` measures the rate of matrix products and of streaming through memory.
"""

import argparse
import contextlib
import json
import os
import time

import common
import torch_addition
import torch_structural

WARM_UP_STEPS = 5


def model_class():
    import torch
    import torch.nn.functional as functional
    from torch import nn

    class Block(nn.Module):
        """Pre-norm block: attention without biases, then an MLP with biases and ReLU."""

        def __init__(self, sizes):
            super().__init__()
            dim = sizes["dim"]
            self.heads, self.causal = sizes["heads"], sizes["causal"]
            self.attention_norm = nn.LayerNorm(dim)
            self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
            self.attention_output = nn.Linear(dim, dim, bias=False)
            self.mlp_norm = nn.LayerNorm(dim)
            self.up = nn.Linear(dim, sizes["mlp"])
            self.down = nn.Linear(sizes["mlp"], dim)

        def forward(self, states):
            batch, length, dim = states.shape
            maps = self.query_key_value(self.attention_norm(states))
            query, key, value = maps.view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
            states = states + self.attention_output(mixed.transpose(1, 2).reshape(batch, length, dim))
            return states + self.down(functional.relu(self.up(self.mlp_norm(states))))

    class Transformer(nn.Module):
        """Learned positions, final norm, untied read-out without bias, at the last position or at every one."""

        def __init__(self, sizes):
            super().__init__()
            dim = sizes["dim"]
            self.last = sizes["last"]
            self.tokens = nn.Embedding(sizes["vocab"], dim)
            self.positions = nn.Parameter(0.02 * torch.randn(sizes["length"], dim))
            self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
            self.norm = nn.LayerNorm(dim)
            self.read_out = nn.Linear(dim, sizes["vocab"], bias=False)

        def forward(self, tokens):
            states = self.tokens(tokens) + self.positions
            for block in self.blocks:
                states = block(states)
            if self.last:
                states = states[:, -1]
            return self.read_out(self.norm(states))

    return Transformer


def loss_of(logits, answers):
    import torch.nn.functional as functional

    return functional.cross_entropy(logits.flatten(0, -2), answers.flatten())


def shapes(sizes):
    """Shapes of one replica's tokens and answers."""
    tokens = (sizes["batch"], sizes["length"])
    return tokens, (tokens[:1] if sizes["last"] else tokens)


class Drawing:
    """Fresh random tokens and answers at every step."""

    def __init__(self, sizes, device, replicas=None):
        self.vocab, self.device = sizes["vocab"], device
        self.tokens_per_step = sizes["batch"] * sizes["length"]
        leading = () if replicas is None else (replicas,)
        self.shapes = [leading + shape for shape in shapes(sizes)]

    def new(self):
        import torch

        return [torch.randint(self.vocab, shape, device=self.device) for shape in self.shapes]

    def into(self, tensors):
        for tensor in tensors:
            tensor.random_(self.vocab)


class Noise:
    """What a workload of random tokens is made of."""

    model_class, loss_of, Drawing = staticmethod(model_class), staticmethod(loss_of), Drawing
    adamw, clip, multiplier = {"betas": (0.9, 0.999), "weight_decay": 1.0}, None, None


class Addition:
    """What a workload of additions is made of."""

    model_class, loss_of = staticmethod(torch_addition.model_class), staticmethod(torch_addition.loss_of)
    Drawing = torch_addition.Drawing
    adamw, clip, multiplier = {"betas": (0.9, 0.98), "weight_decay": 0.01}, 0.5, None


class QuestionFormation:
    """What a workload of question formation is made of."""

    model_class, loss_of = staticmethod(torch_structural.model_class), staticmethod(torch_structural.loss_of)
    Drawing = torch_structural.Drawing
    # With as many parameters as the paper's model has, one pass over them counts on a processor too.
    adamw = {"betas": (0.9, 0.999), "eps": 1e-7, "weight_decay": 0.0, "fused": True, "foreach": False}
    clip = 1.0
    multiplier = staticmethod(torch_structural.multiplier)


def recipe_of(sizes):
    return {None: Noise, "addition": Addition, "question-formation": QuestionFormation}[sizes.get("task")]


def adamw(parameters, device, settings, **options):
    """AdamW in the fastest form of the device."""
    import torch

    fastest = {"fused": True} if device == "cuda" else {"foreach": True}
    return torch.optim.AdamW(parameters, **{"lr": 1e-3, "eps": 1e-8} | fastest | settings, **options)


def ordinary(sizes, device, mode):
    """(one training step from a batch, number of parameters)."""
    import torch

    recipe = recipe_of(sizes)
    model = recipe.model_class()(sizes).to(device)
    options = {"capturable": True} if mode == "graphs" else {}
    settings = recipe.adamw | ({"lr": sizes["rate"]} if "rate" in sizes else {})
    optimizer = adamw(model.parameters(), device, settings, **options)
    schedule = recipe.multiplier and torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.multiplier(sizes))
    parameters = list(model.parameters())
    narrow = torch.autocast(device, torch.bfloat16) if sizes.get("precision") == "bf16" else contextlib.nullcontext()
    forward = model
    if mode == "compile":
        forward = torch.compile(model)
    elif mode == "reduce-overhead":
        forward = torch.compile(model, mode="reduce-overhead")

    def step(*batch):
        *given, answers = batch
        with narrow:
            loss = recipe.loss_of(forward(*given), answers)
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip, foreach=True)
        optimizer.step()
        if schedule:
            schedule.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step, sum(parameter.numel() for parameter in parameters)


def stacked(sizes, device, mode, replicas):
    """The same for replicas that torch.func maps over."""
    from torch.func import functional_call, grad, stack_module_state, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kind = model_class()
    models = [kind(sizes).to(device) for _ in range(replicas)]
    parameters, _ = stack_module_state(models)
    parameters = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    options = {"capturable": True} if mode == "vmap-graphs" else {}
    optimizer = adamw(list(parameters.values()), device, Noise.adamw, **options)
    base = models[0]

    def loss(own, tokens, answers):
        return loss_of(functional_call(base, own, (tokens,)), answers)

    gradients_of = vmap(grad(loss))

    def step(tokens, answers):
        # The other kernels have no batching rule: vmap would call them once per replica.
        with sdpa_kernel(SDPBackend.MATH):
            gradients = gradients_of(parameters, tokens, answers)
        for name, tensor in parameters.items():
            tensor.grad = gradients[name]
        optimizer.step()

    return step, sum(tensor.numel() for tensor in parameters.values()) // replicas


def captured(step, drawing):
    """The step as one CUDA graph on a batch of fixed place."""
    import torch

    batch = drawing.new()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step(*batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*batch)

    def replay():
        drawing.into(batch)
        graph.replay()

    return replay


def measure(sizes, settings, ready):
    import torch

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(os.getpid())
    device, mode = settings["device"], settings["mode"]
    on_card = device == "cuda"
    replicas = settings["replicas"] if mode.startswith("vmap") else 1
    recipe = recipe_of(sizes)
    if mode.startswith("vmap"):
        if recipe is not Noise:
            raise SystemExit("vmap is offered for random tokens only")
        step, parameters = stacked(sizes, device, mode, replicas)
        drawing = Noise.Drawing(sizes, device, replicas)
    elif recipe is QuestionFormation:
        if mode == "graphs":
            raise SystemExit("a captured step has one length and one learning rate")
        step, parameters = ordinary(sizes, device, mode)
        # One shape is compiled once; code for any length takes minutes to compile on a processor.
        drawing = recipe.Drawing(sizes, device, fixed=mode != "eager")
    else:
        step, parameters = ordinary(sizes, device, mode)
        drawing = recipe.Drawing(sizes, device)
    advance = captured(step, drawing) if mode.endswith("graphs") else lambda: step(*drawing.new())
    for _ in range(WARM_UP_STEPS):
        advance()
    synchronize = torch.cuda.synchronize if on_card else lambda: None
    synchronize()
    ready()
    steps, begun, processor_begun = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < settings["seconds"]:
        advance()
        steps += 1
        # A card's queue may hold many steps; what is counted must be done.
        if on_card and steps % 32 == 0:
            synchronize()
    synchronize()
    seconds = time.perf_counter() - begun
    found = {
        "rate": steps * replicas / seconds,
        "processor_rate": steps * replicas / (time.process_time() - processor_begun),
        "memory": common.peak_memory_bytes(),
        "parameters": parameters,
        "tokens_per_step": drawing.tokens_per_step,
    }
    if on_card:
        found["device_memory"] = torch.cuda.max_memory_reserved()
    return found


def trial(sizes, steps, seed, save):
    """One training run as a user's script would do it: train, then save weights and optimiser."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = model_class()(sizes)
    optimizer = adamw(model.parameters(), "cpu", Noise.adamw)
    drawing = Drawing(sizes, "cpu")
    loss = None
    for _ in range(steps):
        tokens, answers = drawing.new()
        loss = loss_of(model(tokens), answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, save)
    return {"seed": seed, "steps": steps, "train_loss": loss.item()}


def matrix_products(_, settings, ready):
    """Best rate of 32-bit matrix products of several shapes."""
    import torch

    torch.set_num_threads(1)
    device = settings["device"]
    on_card = device == "cuda"
    extents = (
        [(8192, 8192, 8192), (16384, 4096, 4096)]
        if on_card
        else [(256, 256, 256), (512, 512, 512), (1024, 512, 1024), (2048, 256, 512)]
    )
    synchronize = torch.cuda.synchronize if on_card else lambda: None
    ready()
    best = 0.0
    for rows, inner, columns in extents:
        left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
        until = time.perf_counter() + settings["seconds"]
        while time.perf_counter() < until:
            begun = time.perf_counter()
            left @ right
            synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - begun))
    return {"rate": best, "memory": 0, "parameters": 0}


def card_streaming(seconds):
    """Bytes per second of scaled additions over arrays far beyond the card's caches."""
    import torch

    target, source = torch.zeros(1 << 28, device="cuda"), torch.ones(1 << 28, device="cuda")
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        target.add_(source, alpha=0.5)
        torch.cuda.synchronize()
        best = max(best, 3 * 4 * target.numel() / (time.perf_counter() - begun))
    return best


def machine(settings, processes):
    line = {
        "matrix_product_flops_per_s": common.side_by_side(matrix_products, None, settings, processes)[
            "replica_steps_per_s"
        ]
    }
    if settings["device"] == "cuda":
        import torch

        line["bytes_per_s"] = card_streaming(settings["seconds"])
        line["device"] = torch.cuda.get_device_name()
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "trial", "machine"])
    parser.add_argument("workload", nargs="?")
    parser.add_argument("--workloads", default=common.WORKLOADS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    modes = ["eager", "compile", "reduce-overhead", "graphs", "vmap", "vmap-graphs"]
    parser.add_argument("--mode", default="eager", choices=modes)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save")
    arguments = parser.parse_intermixed_args()
    settings = {name: getattr(arguments, name) for name in ("device", "mode", "threads", "replicas", "seconds")}
    if arguments.what == "machine":
        print(json.dumps(machine(settings, arguments.processes)))
        return
    if arguments.workload is None:
        parser.error("which workload?")
    sizes = common.read_workloads(arguments.workloads)[arguments.workload]
    if arguments.what == "trial":
        if arguments.save is None:
            parser.error("a trial needs --save FILE")
        if "task" in sizes:
            parser.error("trials are offered for workloads of random tokens only")
        print(json.dumps(trial(sizes, arguments.steps, arguments.seed, arguments.save)))
    else:
        line = common.side_by_side(measure, sizes, settings, arguments.processes)
        print(json.dumps({"program": "torch", "workload": arguments.workload, **line}))


if __name__ == "__main__":
    main()
