#!/usr/bin/env python3
"""Times one whole training step of the pre-training model in JAX: one jitted function of parameters and moments, whose
buffers are donated. Flags and JSON are those of torch_step.py, and so is what is timed.

    jax_step.py --check DIR             times nothing: compares with what step_bench --check DIR left there
"""

import os
import sys

sys.dont_write_bytecode = True
try:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import array_model
    import measure
    import step_peer
except ImportError as error:
    sys.exit(f"jax_step.py: {error}; install JAX for it: bash benchmarks/peers/install.sh jax")


class Ops:
    reshape, transpose, where, matmul = map(staticmethod, (jnp.reshape, jnp.transpose, jnp.where, jnp.matmul))
    softmax, relu, rsqrt = map(staticmethod, (jax.nn.softmax, jax.nn.relu, jax.lax.rsqrt))

    def __init__(self, dtype):
        self.number = {"fp64": jnp.float64, "fp32": jnp.float32, "bf16": jnp.bfloat16}[dtype]
        self.wide_number = jnp.float64 if dtype == "fp64" else jnp.float32

    def narrow(self, x):
        return x.astype(self.number)

    def wide(self, x):
        return x.astype(self.wide_number)

    def linear(self, x, weight, bias):
        return self.narrow(x) @ self.narrow(weight) + self.narrow(bias)

    def dropout(self, x, p):
        """Every call takes the next key of `self.key`."""
        self.key, key = jax.random.split(self.key)
        return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x * (1 / (1 - p)), 0).astype(x.dtype)

    def gelu(self, x):
        return jax.nn.gelu(x, approximate=True)

    def mean(self, x, axis):
        return jnp.mean(x, axis, keepdims=True)

    def take(self, x, rows):
        return jnp.take(x, rows, axis=0, mode="clip")

    def concat(self, parts):
        return jnp.concatenate(parts, axis=-1)


def make_functions(flags, dropout):
    """value_and_grad(parameters, batch, key), and step((parameters, moments, squares), t, batch, key) -> the three, loss."""
    ops = Ops(flags.dtype)
    model = array_model.ArrayModel(ops, flags, dropout)

    def loss(parameters, batch, key):
        ops.key = key
        return model.masked_loss(parameters, batch)

    value_and_grad = jax.value_and_grad(loss)

    def step(state, t, batch, seed):
        parameters, moments, squares = state
        # The cheapest generator there is: dropout needs no better one.
        value, gradients = value_and_grad(parameters, batch, jax.random.key(seed, impl="unsafe_rbg"))
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients.values()))
        scale = jnp.minimum(1.0, step_peer.CLIP / norm)
        correction1, correction2 = 1 - step_peer.BETA1**t, 1 - step_peer.BETA2**t
        new = {}, {}, {}
        for name, p in parameters.items():
            g = gradients[name] * scale
            m = step_peer.BETA1 * moments[name] + (1 - step_peer.BETA1) * g
            v = step_peer.BETA2 * squares[name] + (1 - step_peer.BETA2) * g * g
            decay = step_peer.RATE * step_peer.WEIGHT_DECAY if array_model.is_matrix(name, p.shape) else 0
            update = step_peer.RATE / correction1 * m / (jnp.sqrt(v / correction2) + step_peer.EPSILON)
            for target, value_of in zip(new, ((1 - decay) * p - update, m, v)):
                target[name] = value_of
        return new, value

    return jax.jit(value_and_grad), jax.jit(step, donate_argnums=0)


def start_state(parameters, number):
    return tuple({name: jnp.asarray(value * factor, number) for name, value in parameters.items()} for factor in (1, 0, 0))


def train_stored(flags, tensors):
    """Losses of the stored steps, and the gradients of the first."""
    with jax.enable_x64(flags.dtype == "fp64"):
        number = jnp.float64 if flags.dtype == "fp64" else jnp.float32
        state = start_state(array_model.load_parameters(flags.weights), number)
        value_and_grad, step = make_functions(flags, 0)
        losses, gradients = [], None
        for i, rows in enumerate(step_peer.stored_rows(tensors)):
            batch = array_model.batch_of(flags, rows)
            if gradients is None:
                _, found = value_and_grad(state[0], batch, None)
                gradients = array_model.transposed({name: np.asarray(g, np.float64) for name, g in found.items()})
            state, loss = step(state, np.float32(i + 1), batch, i)
            losses.append(float(loss))
    return losses, gradients


def main():
    parser = step_peer.make_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16: parameters stay fp32")
    flags = step_peer.parse(parser)
    cores = sorted(os.sched_getaffinity(0))  # JAX makes its threads when it is first used, one for each of these
    if flags.threads:
        os.sched_setaffinity(0, cores[: flags.threads])
    flags.threads = len(os.sched_getaffinity(0))
    jax.config.update("jax_platforms", "cpu")
    if flags.check:
        return step_peer.check(flags, train_stored)

    random = np.random.default_rng(1)
    parameters = (array_model.load_parameters(flags.weights) if flags.weights
                  else array_model.random_parameters(flags, random))
    state = start_state(parameters, jnp.float32)
    _, step = make_functions(flags, flags.dropout)
    batches = [jax.device_put(array_model.batch_of(flags, step_peer.random_rows(flags, random)))
               for _ in range(measure.BATCHES)]
    last = {"state": state, "t": 0}

    def run(i):
        last["t"] += 1
        last["state"], loss = step(last["state"], np.float32(last["t"]), batches[i % len(batches)], last["t"])
        last["loss"] = float(loss)

    ms = measure.turns(run, flags)
    memory = measure.peak_memory_mib()
    number = jnp.bfloat16 if flags.dtype == "bf16" else jnp.float32
    T = flags.B * flags.L
    x, weight = (jnp.asarray(random.normal(size=size), number) for size in ((T, flags.E), (flags.E, 4 * flags.E)))
    multiply = jax.jit(jnp.matmul)
    gemm = measure.rate_of_products(lambda: multiply(x, weight).block_until_ready(), T, flags.E)
    step_peer.report(flags, f"jax {jax.__version__}", "jit", ms, memory, len(batches[0]["chosen"]), last["loss"], gemm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
