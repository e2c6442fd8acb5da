"""What a JAX user would run instead of Plateau: the workloads as one jitted step, mapped over replicas.

    jax_peer.py measure [--device cpu|cuda] [--processes P] [--threads T] [--replicas K] [--seconds S] WORKLOAD

On a CPU, `--threads 1` keeps XLA on one thread; any other number leaves it all of them.
"""

import argparse
import json
import os
import time

import common

WARM_UP_STEPS = 3
EPSILON = 1e-5  # of the layer norms


def initial(key, sizes):
    """Parameters of one replica."""
    import jax
    import jax.numpy as jnp

    dim, mlp, vocab = sizes["dim"], sizes["mlp"], sizes["vocab"]
    keys = iter(jax.random.split(key, 3 + 4 * sizes["layers"]))

    def normal(*shape):
        return 0.02 * jax.random.normal(next(keys), shape)

    def norm():
        return {"gain": jnp.ones(dim), "bias": jnp.zeros(dim)}

    def block():
        return {
            "attention_norm": norm(),
            "query_key_value": normal(dim, 3 * dim),
            "attention_output": normal(dim, dim),
            "mlp_norm": norm(),
            "up": normal(dim, mlp),
            "up_bias": jnp.zeros(mlp),
            "down": normal(mlp, dim),
            "down_bias": jnp.zeros(dim),
        }

    return {
        "tokens": normal(vocab, dim),
        "positions": normal(sizes["length"], dim),
        "blocks": [block() for _ in range(sizes["layers"])],
        "norm": norm(),
        "read_out": normal(dim, vocab),
    }


def layer_norm(states, norm):
    import jax
    import jax.numpy as jnp

    centred = states - states.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON) * norm["gain"] + norm["bias"]


def loss(parameters, tokens, answers, sizes):
    import jax
    import jax.numpy as jnp

    batch, length = tokens.shape
    heads, head = sizes["heads"], sizes["dim"] // sizes["heads"]
    states = parameters["tokens"][tokens] + parameters["positions"]
    for block in parameters["blocks"]:
        maps = layer_norm(states, block["attention_norm"]) @ block["query_key_value"]
        query, key, value = jnp.moveaxis(maps.reshape(batch, length, 3, heads, head), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / head**0.5
        if sizes["causal"]:
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        states = states + mixed.reshape(batch, length, sizes["dim"]) @ block["attention_output"]
        hidden = jax.nn.relu(layer_norm(states, block["mlp_norm"]) @ block["up"] + block["up_bias"])
        states = states + hidden @ block["down"] + block["down_bias"]
    if sizes["last"]:
        states = states[:, -1]
    logarithms = jax.nn.log_softmax(layer_norm(states, parameters["norm"]) @ parameters["read_out"])
    return -jnp.take_along_axis(logarithms, answers[..., None], -1).mean()


def measure(sizes, settings, ready):
    if settings["device"] == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        if settings["threads"] == 1:
            flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = flags
    import jax
    import numpy
    import optax

    replicas = settings["replicas"]
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1.0)

    def step(parameters, state, tokens, answers):
        value, gradients = jax.value_and_grad(loss)(parameters, tokens, answers, sizes)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    keys = jax.random.split(jax.random.PRNGKey(os.getpid()), replicas)
    parameters = jax.vmap(lambda key: initial(key, sizes))(keys)
    count = sum(leaf.size for leaf in jax.tree_util.tree_leaves(parameters)) // replicas
    state = jax.vmap(optimizer.init)(parameters)
    all_steps = jax.jit(jax.vmap(step), donate_argnums=(0, 1))
    generator = numpy.random.default_rng(os.getpid())
    shape = (replicas, sizes["batch"], sizes["length"])

    def draw(shape):
        return generator.integers(0, sizes["vocab"], shape, dtype=numpy.int32)

    def advance(parameters, state):
        answers = draw(shape[:2] if sizes["last"] else shape)
        parameters, state, value = all_steps(parameters, state, draw(shape), answers)
        value.block_until_ready()
        return parameters, state

    for _ in range(WARM_UP_STEPS):
        parameters, state = advance(parameters, state)
    ready()
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < settings["seconds"]:
        parameters, state = advance(parameters, state)
        steps += 1
    seconds = time.perf_counter() - begun
    return {"rate": steps * replicas / seconds, "memory": common.peak_memory_bytes(), "parameters": count}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure"])
    parser.add_argument("workload")
    parser.add_argument("--workloads", default=common.WORKLOADS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("device", "threads", "replicas", "seconds")}
    sizes = common.read_workloads(arguments.workloads)[arguments.workload]
    if "task" in sizes:
        parser.error("only workloads of random tokens are offered")
    line = common.side_by_side(measure, sizes, settings, arguments.processes)
    print(json.dumps({"program": "jax", "workload": arguments.workload, **line}))


if __name__ == "__main__":
    main()
