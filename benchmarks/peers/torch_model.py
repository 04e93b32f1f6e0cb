"""Both models as PyTorch would train and run them: scaled_dot_product_attention, dropout, batch norm over the batch.

Modules, names and the loading of checkpoints are those of tests/parity/model.py; only the forward passes are written anew.
For full windows: every row is real.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import measure

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "parity"))
import model as parity  # noqa: E402


def settings_of(flags, hidden, head_rows):
    """The part of a configuration that the modules read."""
    return {
        "model": {"width": flags.E, "heads": flags.heads, "blocks": flags.blocks, "norm": flags.norm,
                  "upscaling": flags.upscaling, "position": "learned", "max_length": flags.L},
        "head": {"hidden": hidden, "batch_norm": True, "rows": head_rows, "pool": "last"},
        "data": {"window_statistics": False},
        "train": {"loss": "squared"},
        "labels": {"edges": []},
    }


class RowsRead:
    """Rows that the last block is computed for: measure.rows_read of `chosen` [B, L] on a device."""

    def __init__(self, chosen, device):
        self.by_sequence, self.places, self.flat = (torch.from_numpy(rows).to(device) for rows in measure.rows_read(chosen))


def flex_attention(q, k, v, attn_mask, dropout_p):
    """F.scaled_dot_product_attention by PyTorch's compiler of attention variants, which has no dropout."""
    from torch.nn.attention import flex_attention as flex

    if dropout_p > 0:
        raise RuntimeError("flex attention has no dropout")
    if attn_mask is None:
        return flex.flex_attention(q, k, v)
    return flex.flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: torch.where(
        attn_mask[b, 0, 0, j], score, float("-inf")))


class TorchModel(parity.BlinkModel):
    def __init__(self, task, features, settings, dropout):
        super().__init__(task, features, settings)
        self.dropout = dropout
        self.attention = F.scaled_dot_product_attention
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        for name, buffer in self.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(1)
            elif name.endswith("running_mean"):
                buffer.zero_()

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training)

    def attend(self, attention, x, keys, read):
        """x [B, L, E] -> [B, L, E], or [M, E] for the rows read. `keys`: which keys are visible, or None."""
        B, L, _ = x.shape
        H, D = attention.heads, attention.head_width
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        probability = self.dropout if self.training else 0.0
        if read is None:
            q, k, v = F.linear(x, weight, bias).view(B, L, 3, H, D).permute(2, 0, 3, 1, 4)
            o = self.attention(q, k, v, attn_mask=keys, dropout_p=probability)
            return attention.out_proj(o.transpose(1, 2).reshape(B, L, H * D))
        rows = torch.gather(x, 1, read.by_sequence[:, :, None].expand(-1, -1, x.shape[2]))
        q = F.linear(rows, weight[: H * D], bias[: H * D]).view(B, -1, H, D).transpose(1, 2)
        k, v = F.linear(x, weight[H * D:], bias[H * D:]).view(B, L, 2, H, D).permute(2, 0, 3, 1, 4)
        o = self.attention(q, k, v, attn_mask=keys, dropout_p=probability)
        return attention.out_proj(o.transpose(1, 2).reshape(-1, H * D).index_select(0, read.places))

    def run_block(self, block, x, keys, read=None):
        def rows(x):
            return x if read is None else x.flatten(0, 1).index_select(0, read.flat)

        if block.is_pre_norm:
            x = rows(x) + self.drop(self.attend(block.self_attn, block.norm1(x), keys, read))
            return x + self.drop(block.feed_forward(block.norm2(x)))
        x = block.norm1(rows(x) + self.drop(self.attend(block.self_attn, x, keys, read)))
        return block.norm2(x + self.drop(block.feed_forward(x)))

    def upscale(self, x, keys):
        upscaling = self.backbone.upscaling
        if upscaling.kind == "none":
            return x
        if upscaling.kind == "linear":
            return upscaling.linear(x)
        block = self.run_block(upscaling.block, x, keys)
        if upscaling.kind == "attention_linear":
            return upscaling.linear(block)
        return torch.cat([block, upscaling.linear(x)], dim=-1)

    def run_head(self, x):
        head = self.head
        for i, hidden in enumerate(head.hidden):
            x = hidden(x)
            if head.norm is not None:
                norm = head.norm[i]
                x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, 0.1,
                                 parity.EPSILON)
            x = self.drop(torch.relu(x))
        return head.output(x)

    def encode(self, x, keys, read=None):
        """[B, L, N] -> [B, L, E], or [M, E] for the rows read."""
        x = self.upscale(x, keys) + self.backbone.position(x.shape[1])
        *blocks, last = self.backbone.encoder.layers
        for block in blocks:
            x = self.run_block(block, x, keys)
        return self.run_block(last, x, keys, read)

    def masked_loss(self, x, target, keys, chosen, read):
        """Mean square over the chosen rows; `chosen` [M] counts the B L rows, `target` is [M, N]. Without `read` the last
        block is computed for every row."""
        encoded = self.encode(x, keys, read)
        if read is None:
            encoded = encoded.flatten(0, 1)
            if not self.reads_chosen_rows:
                return F.mse_loss(self.run_head(encoded).index_select(0, chosen), target)
            encoded = encoded.index_select(0, chosen)
        return F.mse_loss(self.run_head(encoded), target)

    def scores(self, x, read):
        """[B, L, N] -> [B]."""
        encoded = self.encode(x, None, read)
        return self.run_head(encoded[:, -1] if read is None else encoded)[:, 0]


def load_model(path, dropout):
    """The model of a checkpoint."""
    metadata = measure.metadata_of(path)
    net = TorchModel(metadata["task"], len(json.loads(metadata["features"])), json.loads(metadata["config"]), dropout)
    net.load_state_dict(load_file(path), strict=True)
    return net


def parameter_groups(net, weight_decay):
    """Matrices decay; biases, norms and positions do not."""
    decays = [p for name, p in net.named_parameters() if p.dim() > 1 and "position" not in name]
    others = [p for name, p in net.named_parameters() if p.dim() <= 1 or "position" in name]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
