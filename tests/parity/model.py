"""Both models in plain PyTorch, written from the formulas and not from the C++ code.

Evaluation mode only: no dropout, batch norm with its running values. Module names are chosen so that `state_dict` has
the names of a checkpoint and `load_state_dict(strict=True)` takes one as it is.

Letters: B sequences, L rows each, N features, E width, H heads, D = ceil(E / H) head width, M chosen rows.
"""

import functools
import json
import math

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

EPSILON = 1e-5  # of layer norm and batch norm
gelu = functools.partial(F.gelu, approximate="tanh")


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v over the visible keys; a query without a visible key gets zeros."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.head_width = heads, math.ceil(width / heads)
        inner = heads * self.head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * inner))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, x, visible):
        B, L, _ = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(B, L, 3, self.heads, self.head_width)
        q, k, v = qkv.unbind(2)  # [B, L, H, D]
        if k.requires_grad:
            k.register_hook(self.keep_sizes)
        scores = torch.einsum("blhd,bshd->bhls", q, k) / math.sqrt(self.head_width)
        keys = visible[:, None, None, :]
        # Finite, so that a sequence without a visible key has no NaN in its gradient either.
        weights = torch.softmax(scores.masked_fill(~keys, -1e300), dim=-1) * keys
        return self.out_proj(torch.einsum("bhls,bshd->blhd", weights, v).reshape(B, L, -1))

    def keep_sizes(self, dk):
        """[H, D]: sum of |dk| over all rows, the scale of what is added up to the gradient of the key bias."""
        self.key_gradient_sizes = dk.abs().sum(dim=(0, 1))


class EncoderBlock(nn.Module):
    """Post-norm: LN(x + f(x)) twice; pre-norm: x + f(LN(x)) twice."""

    def __init__(self, width, heads, norm):
        super().__init__()
        self.is_pre_norm = norm == "pre"
        self.self_attn = SelfAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)

    def feed_forward(self, x):
        return self.linear2(gelu(self.linear1(x)))

    def forward(self, x, visible):
        if self.is_pre_norm:
            x = x + self.self_attn(self.norm1(x), visible)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self.self_attn(x, visible))
        return self.norm2(x + self.feed_forward(x))


class Upscaling(nn.Module):
    """From N features to width E, in one of four ways."""

    def __init__(self, kind, features, width, heads, norm):
        super().__init__()
        self.kind = kind
        if kind.startswith("attention"):
            self.block = EncoderBlock(features, heads, norm)
        if kind != "none":
            self.linear = nn.Linear(features, width - features if kind == "attention_concatenation" else width)

    def forward(self, x, visible):
        if self.kind == "none":
            return x
        if self.kind == "linear":
            return self.linear(x)
        block = self.block(x, visible)
        return self.linear(block) if self.kind == "attention_linear" else torch.cat([block, self.linear(x)], dim=-1)


class Position(nn.Module):
    """A learned table [max_length, E], or sin and cos of l / 10000^(2 i / E) in turns, which is in no checkpoint."""

    def __init__(self, kind, max_length, width):
        super().__init__()
        if kind == "learned":
            self.weight = nn.Parameter(torch.empty(max_length, width))
            return
        angle = torch.arange(max_length)[:, None] / 10000.0 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(max_length, -1)[:, :width]
        self.register_buffer("weight", table, persistent=False)

    def forward(self, L):
        return self.weight[:L]


class Encoder(nn.Module):
    def __init__(self, blocks, width, heads, norm):
        super().__init__()
        self.layers = nn.ModuleList(EncoderBlock(width, heads, norm) for _ in range(blocks))

    def forward(self, x, visible):
        for layer in self.layers:
            x = layer(x, visible)
        return x


def append_statistics(x, visible):
    """Of each feature mean, mean absolute value and standard deviation over the visible rows, as channels of every row.

    [B, L, N] -> [B, L, 4 N]; zeros for a sequence without a visible row.
    """
    weight = visible[..., None] / visible.sum(dim=1).clamp(min=1)[:, None, None]
    mean = (weight * x).sum(dim=1, keepdim=True)
    size = (weight * x.abs()).sum(dim=1, keepdim=True)
    spread = (weight * (x - mean) ** 2).sum(dim=1, keepdim=True).sqrt()
    return torch.cat([x, *(value.expand_as(x) for value in (mean, size, spread))], dim=-1)


class Backbone(nn.Module):
    def __init__(self, features, settings):
        super().__init__()
        model = settings["model"]
        width, heads, norm = model["width"], model["heads"], model["norm"]
        self.appends = settings["data"]["window_statistics"]
        features = 4 * features if self.appends else features
        self.upscaling = Upscaling(model["upscaling"], features, width, heads, norm)
        self.position = Position(model["position"], model["max_length"], width)
        self.encoder = Encoder(model["blocks"], width, heads, norm)

    def embed(self, x, visible):
        x = append_statistics(x, visible) if self.appends else x
        return self.upscaling(x, visible) + self.position(x.shape[1])

    def forward(self, x, visible):
        return self.encoder(self.embed(x, visible), visible)


class RunningNorm(nn.Module):
    """Batch norm with its running values, which are constants in the gradient."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.register_buffer("running_mean", torch.empty(width))
        self.register_buffer("running_var", torch.empty(width))

    def forward(self, x):
        return self.weight * (x - self.running_mean) / torch.sqrt(self.running_var + EPSILON) + self.bias


class Head(nn.Module):
    """Per hidden size linear, batch norm (or none), ReLU; then linear."""

    def __init__(self, width, outputs, head):
        super().__init__()
        sizes = [width, *head["hidden"]]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:]))
        self.norm = nn.ModuleList(RunningNorm(size) for size in sizes[1:]) if head["batch_norm"] else None
        self.output = nn.Linear(sizes[-1], outputs)

    def forward(self, x):
        for i, hidden in enumerate(self.hidden):
            x = hidden(x)
            x = torch.relu(self.norm[i](x) if self.norm is not None else x)
        return self.output(x)


class BlinkModel(nn.Module):
    """Encoder and head of either task. `settings` is the `config` of a checkpoint's metadata."""

    def __init__(self, task, features, settings):
        super().__init__()
        self.pretrains = task == "pretraining"
        self.reads_chosen_rows = settings["head"]["rows"] == "masked"
        self.pools = settings["head"]["pool"] == "mean"
        self.loss_kind = settings["train"]["loss"]
        self.edges = settings["labels"]["edges"]
        outputs = {"softmax": len(self.edges) + 1, "ordinal": len(self.edges)}.get(self.loss_kind, 1)
        self.backbone = Backbone(features, settings)
        self.head = Head(settings["model"]["width"], features if self.pretrains else outputs, settings["head"])

    def forward(self, x, lengths, masked, encoder=None):
        """x [B, L, N], lengths [B], masked [B, L] -> [B, L, N] (zeros at padded rows) or [M, N].

        Fine-tuning: [B], or [B, O] of a loss over levels.

        `encoder` stands in for the encoder blocks: a function of their input and the visible rows.
        """
        B, L, _ = x.shape
        real = torch.arange(L) < lengths[:, None]
        visible = real & ~masked
        x = torch.where(real[..., None], x, 0.0)
        encoded = (encoder or self.backbone.encoder)(self.backbone.embed(x, visible), visible)
        if self.pretrains:
            if self.reads_chosen_rows:
                return self.head(encoded[masked])
            return torch.where(real[..., None], self.head(encoded), 0.0)
        if self.pools:  # masked rows are hidden as keys, but are real rows
            read = torch.where(real[..., None], encoded, 0.0).sum(dim=1) / lengths.clamp(min=1)[:, None]
        else:
            read = encoded[torch.arange(B), (lengths - 1).clamp(min=0)]
        output = torch.where(lengths[:, None] > 0, self.head(read), 0.0)
        return output[:, 0] if output.shape[1] == 1 else output

    def loss(self, output, target, lengths, masked):
        """Sum of squares over the chosen rows / (M N); or the sum over the sequences that have a row / B."""
        if self.pretrains:
            chosen = output if self.reads_chosen_rows else output[masked]
            return torch.mean((chosen - target[masked]) ** 2)
        present = lengths > 0
        return self.score_losses(output[present], target[present]).sum() / len(lengths)

    def score_losses(self, output, target):
        """[B]: squared errors, or -log P(level of the target). A target on an edge is of the level above."""
        level = torch.bucketize(target, torch.tensor(self.edges, dtype=target.dtype), right=True)
        if self.loss_kind == "softmax":
            return F.cross_entropy(output, level, reduction="none")
        if self.loss_kind == "ordinal":  # one step upwards after another, until one is not taken
            step = torch.arange(len(self.edges))
            steps = F.binary_cross_entropy_with_logits(
                output.reshape(len(level), -1), (level[:, None] > step).to(output.dtype), reduction="none")
            return torch.where(step <= level[:, None], steps, 0.0).sum(dim=1)
        return (output - target) ** 2


def load_checkpoint(path, dtype=torch.float64):
    """The model of a checkpoint, its tensors and its metadata. Raises where a name or a shape does not fit."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    model = BlinkModel(metadata["task"], len(json.loads(metadata["features"])), json.loads(metadata["config"]))
    tensors = load_file(path)
    model.load_state_dict(tensors, strict=True)
    return model.to(dtype).eval(), tensors, metadata


def torch_encoder(tensors, settings, dtype=torch.float64):
    """torch.nn.TransformerEncoder with the encoder's tensors of a checkpoint, as a function of x and visible."""
    model = settings["model"]
    layer = nn.TransformerEncoderLayer(
        model["width"], model["heads"], 4 * model["width"], dropout=0.0, activation=gelu, layer_norm_eps=EPSILON,
        batch_first=True, norm_first=model["norm"] == "pre")
    encoder = nn.TransformerEncoder(layer, model["blocks"], enable_nested_tensor=False)
    prefix = "backbone.encoder."
    encoder.load_state_dict({name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)})
    encoder = encoder.to(dtype).eval()
    return lambda x, visible: encoder(x, src_key_padding_mask=~visible)
