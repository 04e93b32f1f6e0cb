#!/usr/bin/env python3
"""Times one whole training step of the pre-training model in TensorFlow: plain ops, forward, backward, clipping and AdamW in
one tf.function. Flags and JSON are those of torch_step.py, and so is what is timed.

    tensorflow_step.py --check DIR      times nothing: compares with what step_bench --check DIR left there
"""

import os
import sys

sys.dont_write_bytecode = True
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
try:
    import numpy as np
    import tensorflow as tf

    import array_model
    import measure
    import step_peer
except ImportError as error:
    sys.exit(f"tensorflow_step.py: {error}; install TensorFlow for it: bash benchmarks/peers/install.sh tensorflow")


class Ops:
    reshape, transpose, where, matmul = map(staticmethod, (tf.reshape, tf.transpose, tf.where, tf.matmul))
    softmax, relu, rsqrt, dropout = map(staticmethod, (tf.nn.softmax, tf.nn.relu, tf.math.rsqrt, tf.nn.dropout))

    def __init__(self, dtype):
        self.number = {"fp64": tf.float64, "fp32": tf.float32, "bf16": tf.bfloat16}[dtype]
        self.wide_number = tf.float64 if dtype == "fp64" else tf.float32

    def narrow(self, x):
        return tf.cast(x, self.number)

    def wide(self, x):
        return tf.cast(x, self.wide_number)

    def linear(self, x, weight, bias):
        return tf.nn.bias_add(tf.matmul(self.narrow(x), self.narrow(weight)), self.narrow(bias))

    def gelu(self, x):
        return tf.nn.gelu(x, approximate=True)

    def mean(self, x, axis):
        return tf.reduce_mean(x, axis, keepdims=True)

    def take(self, x, rows):
        return tf.gather(x, rows)

    def concat(self, parts):
        return tf.concat(parts, axis=-1)


class Step:
    def __init__(self, flags, parameters, dropout):
        number = tf.float64 if flags.dtype == "fp64" else tf.float32
        self.parameters = {name: tf.Variable(value, dtype=number) for name, value in parameters.items()}
        self.moments, self.squares = ([tf.Variable(tf.zeros_like(p)) for p in self.parameters.values()] for _ in range(2))
        self.powers = [tf.Variable(1.0, dtype=number) for _ in range(2)]
        self.model = array_model.ArrayModel(Ops(flags.dtype), flags, dropout)
        self.value_and_gradients, self.run = tf.function(self.value_and_gradients), tf.function(self.run)

    def value_and_gradients(self, batch):
        with tf.GradientTape() as tape:
            loss = self.model.masked_loss(self.parameters, batch)
        return loss, tape.gradient(loss, list(self.parameters.values()))

    def run(self, batch):
        loss, gradients = self.value_and_gradients(batch)
        gradients, _ = tf.clip_by_global_norm(gradients, step_peer.CLIP)
        for power, base in zip(self.powers, (step_peer.BETA1, step_peer.BETA2)):
            power.assign(power * base)
        power1, power2 = (power.read_value() for power in self.powers)
        # The kernel adds epsilon to sqrt(v), where v is not corrected for its start yet.
        epsilon = step_peer.EPSILON * tf.sqrt(1 - power2)
        for (name, p), g, m, v in zip(self.parameters.items(), gradients, self.moments, self.squares):
            if array_model.is_matrix(name, p.shape):
                p.assign_sub(step_peer.RATE * step_peer.WEIGHT_DECAY * p)
            number = p.dtype
            tf.raw_ops.ResourceApplyAdam(
                var=p.handle, m=m.handle, v=v.handle, beta1_power=power1, beta2_power=power2,
                lr=tf.constant(step_peer.RATE, number), beta1=tf.constant(step_peer.BETA1, number),
                beta2=tf.constant(step_peer.BETA2, number), epsilon=epsilon, grad=g)
        return loss


def tensors_of(batch):
    return tf.nest.map_structure(tf.constant, batch)


def train_stored(flags, tensors):
    """Losses of the stored steps, and the gradients of the first."""
    step = Step(flags, array_model.load_parameters(flags.weights), 0)
    losses, gradients = [], None
    for rows in step_peer.stored_rows(tensors):
        batch = array_model.batch_of(flags, rows)
        batch = tensors_of({**batch, **{name: batch[name].astype(np.float64 if flags.dtype == "fp64" else np.float32)
                                        for name in ("x", "target")}})
        if gradients is None:
            _, found = step.value_and_gradients(batch)
            gradients = array_model.transposed({name: g.numpy().astype(np.float64)
                                                for name, g in zip(step.parameters, found)})
        losses.append(float(step.run(batch)))
    return losses, gradients


def main():
    parser = step_peer.make_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16: parameters stay fp32")
    flags = step_peer.parse(parser)
    flags.threads = flags.threads or len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(flags.threads)
    tf.config.threading.set_inter_op_parallelism_threads(flags.threads)
    if flags.check:
        return step_peer.check(flags, train_stored)

    tf.random.set_seed(1)
    random = np.random.default_rng(1)
    parameters = (array_model.load_parameters(flags.weights) if flags.weights
                  else array_model.random_parameters(flags, random))
    step = Step(flags, parameters, flags.dropout)
    batches = [tensors_of(array_model.batch_of(flags, step_peer.random_rows(flags, random)))
               for _ in range(measure.BATCHES)]
    last = {}

    def run(i):
        last["loss"] = float(step.run(batches[i % len(batches)]))

    ms = measure.turns(run, flags)
    memory = measure.peak_memory_mib()
    number = tf.bfloat16 if flags.dtype == "bf16" else tf.float32
    T = flags.B * flags.L
    x, weight = (tf.cast(tf.random.normal(size), number) for size in ((T, flags.E), (flags.E, 4 * flags.E)))
    gemm = measure.rate_of_products(lambda: tf.matmul(x, weight), T, flags.E)
    step_peer.report(flags, f"tensorflow {tf.__version__}", "tf.function", ms, memory, batches[0]["chosen"].shape[0],
                     last["loss"], gemm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
