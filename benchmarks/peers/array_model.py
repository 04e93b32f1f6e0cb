"""The pre-training model for frameworks whose programs are functions of arrays, written once over what such a framework
offers (`ops`: tensorflow_step.py, jax_step.py). Parameters have the names of a checkpoint, and matrices are [in, out], as is
usual there. For full windows: every row is real. Batch norm leaves its running values alone; nothing in a step reads them.
"""

import json
import math

import numpy as np
from safetensors.numpy import load_file

import measure

EPSILON = 1e-5  # of layer norm and batch norm
HIDDEN = 64


def is_matrix(name, shape):
    """Matrices are transposed, and decay; biases, norms and positions do neither."""
    return len(shape) == 2 and "position" not in name


def transposed(values):
    """Between the layout of a checkpoint, [out, in], and this model's."""
    return {name: np.ascontiguousarray(value.T) if is_matrix(name, value.shape) else value for name, value in values.items()}


def load_parameters(path):
    head = json.loads(measure.metadata_of(path)["config"])["head"]
    if head["hidden"] != [HIDDEN] or not head["batch_norm"]:
        raise SystemExit(f"{path}: this peer has a head of one hidden layer of {HIDDEN} with batch norm only")
    return transposed({name: value for name, value in load_file(path).items() if "running" not in name})


def random_parameters(flags, random):
    shapes = {}

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (inputs, outputs), (outputs,)

    def block(name, width):
        inner = flags.heads * math.ceil(width / flags.heads)
        shapes[f"{name}.self_attn.in_proj_weight"] = (width, 3 * inner)
        shapes[f"{name}.self_attn.in_proj_bias"] = (3 * inner,)
        linear(f"{name}.self_attn.out_proj", inner, width)
        linear(f"{name}.linear1", width, 4 * width)
        linear(f"{name}.linear2", 4 * width, width)
        for norm in ("norm1", "norm2"):
            shapes[f"{name}.{norm}.weight"] = shapes[f"{name}.{norm}.bias"] = (width,)

    if flags.upscaling.startswith("attention"):
        block("backbone.upscaling.block", flags.N)
    if flags.upscaling != "none":
        linear("backbone.upscaling.linear", flags.N,
               flags.E - flags.N if flags.upscaling == "attention_concatenation" else flags.E)
    shapes["backbone.position.weight"] = (flags.L, flags.E)
    for i in range(flags.blocks):
        block(f"backbone.encoder.layers.{i}", flags.E)
    linear("head.hidden.0", flags.E, HIDDEN)
    shapes["head.norm.0.weight"] = shapes["head.norm.0.bias"] = (HIDDEN,)
    linear("head.output", HIDDEN, flags.N)
    return {name: random.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}


def batch_of(flags, rows):
    """What `masked_loss` reads of step_peer.Rows, as NumPy arrays; `read` is there where the last block reads few rows."""
    batch = {"x": rows.x, "target": rows.target[rows.chosen], "visible": rows.visible,
             "chosen": np.flatnonzero(rows.chosen).astype(np.int32)}
    if flags.last_block == "read":
        by_sequence, places, flat = measure.rows_read(rows.chosen)
        in_batch = by_sequence + flags.L * np.arange(flags.B)[:, None]
        batch["read"] = [part.astype(np.int32) for part in (in_batch.flatten(), places, flat)]
    return batch


class ArrayModel:
    """`ops.linear` multiplies in the type that --dtype names and gives that type, as PyTorch's autocast does; layer norm,
    softmax, loss and what is added along the blocks stay wide."""

    def __init__(self, ops, flags, dropout):
        self.ops, self.flags, self.dropout = ops, flags, dropout

    def drop(self, x):
        return self.ops.dropout(x, self.dropout) if self.dropout > 0 else x

    def linear(self, p, name, x):
        return self.ops.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def normalise(self, p, name, x, axis):
        """(x - mean) / sqrt(variance + epsilon) along an axis, then gain and shift: layer norm and batch norm."""
        x = self.ops.wide(x)
        centred = x - self.ops.mean(x, axis)
        inverse = self.ops.rsqrt(self.ops.mean(centred * centred, axis) + EPSILON)
        return centred * inverse * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attend(self, p, name, x, visible, read):
        """x [B L, E] -> [B L, E], or [M, E] for the rows read."""
        ops, B, L, H = self.ops, self.flags.B, self.flags.L, self.flags.heads
        weight, bias = p[f"{name}.in_proj_weight"], p[f"{name}.in_proj_bias"]
        inner = weight.shape[1] // 3
        D = inner // H

        def heads(y, parts):  # [B rows, parts inner] -> parts of [B, H, rows, D]
            y = ops.transpose(ops.reshape(y, (B, -1, parts, H, D)), (2, 0, 3, 1, 4))
            return [y[i] for i in range(parts)]

        if read is None:
            q, k, v = heads(ops.linear(x, weight, bias), 3)
        else:
            q, = heads(ops.linear(ops.take(x, read[0]), weight[:, :inner], bias[:inner]), 1)
            k, v = heads(ops.linear(x, weight[:, inner:], bias[inner:]), 2)
        scores = ops.wide(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))) * (1 / math.sqrt(D))
        if visible is not None:
            scores = ops.where(visible[:, None, None, :], scores, -1e30)
        y = ops.matmul(ops.narrow(self.drop(ops.softmax(scores))), v)  # [B, H, rows, D]
        y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, inner))
        return self.linear(p, f"{name}.out_proj", y if read is None else ops.take(y, read[1]))

    def run_block(self, p, name, x, visible, read=None):
        ops = self.ops

        def feed_forward(x):
            return self.linear(p, f"{name}.linear2", ops.gelu(self.linear(p, f"{name}.linear1", x)))

        def norm(i, x):
            return self.normalise(p, f"{name}.norm{i}", x, -1)

        def rows(x):
            return x if read is None else ops.take(x, read[2])

        if self.flags.norm == "pre":
            x = rows(x) + self.drop(ops.wide(self.attend(p, f"{name}.self_attn", norm(1, x), visible, read)))
            return x + self.drop(ops.wide(feed_forward(norm(2, x))))
        x = norm(1, rows(x) + self.drop(ops.wide(self.attend(p, f"{name}.self_attn", x, visible, read))))
        return norm(2, x + self.drop(ops.wide(feed_forward(x))))

    def upscale(self, p, x, visible):
        kind = self.flags.upscaling
        if kind == "none":
            return x
        if kind == "linear":
            return self.linear(p, "backbone.upscaling.linear", x)
        block = self.run_block(p, "backbone.upscaling.block", x, visible)
        if kind == "attention_linear":
            return self.linear(p, "backbone.upscaling.linear", block)
        return self.ops.concat([block, self.ops.wide(self.linear(p, "backbone.upscaling.linear", x))])

    def masked_loss(self, p, batch):
        """Mean square over the chosen rows."""
        ops, flags = self.ops, self.flags
        visible, read = batch["visible"] if flags.hide else None, batch.get("read")
        x = self.upscale(p, ops.reshape(batch["x"], (-1, flags.N)), visible)
        x = ops.reshape(ops.wide(x), (flags.B, flags.L, flags.E)) + p["backbone.position.weight"][: flags.L]
        x = ops.reshape(x, (-1, flags.E))
        for i in range(flags.blocks):
            is_last = i == flags.blocks - 1
            x = self.run_block(p, f"backbone.encoder.layers.{i}", x, visible, read if is_last else None)
        if read is None and flags.head_rows == "masked":
            x = ops.take(x, batch["chosen"])
        x = self.normalise(p, "head.norm.0", self.linear(p, "head.hidden.0", x), 0)
        x = ops.wide(self.linear(p, "head.output", self.drop(ops.relu(x))))
        if flags.head_rows == "all":
            x = ops.take(x, batch["chosen"])
        error = x - batch["target"]
        return ops.mean(ops.reshape(error * error, (-1,)), 0)[0]
