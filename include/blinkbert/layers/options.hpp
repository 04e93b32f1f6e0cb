#pragma once

// The sizes and choices that layers are built from, with their defaults. "source" = Ekenstam, Ekener 2023, master's
// thesis, Chalmers: best settings of its sweeps; "ours" = left open there and decided here.

#include <vector>

#include <blinkbert/ops/masked_loss.hpp>
#include <blinkbert/ops/narrow_block.hpp>

namespace blinkbert {

/// From N features to width E:  none: E = N;  linear;  attention_linear: linear(block(x));
/// attention_concatenation: [block(x) | linear(x)], N and E - N wide. Its block has width N.
enum class Upscaling { none, linear, attention_linear, attention_concatenation };

enum class Position { learned, sinusoidal };

/// What the fine-tuning head reads of a sequence: its last real row, or the mean of its real rows.
enum class Pool { last, mean };

/// Rows that the last block is computed for: all of them, or those that the head reads.
enum class LastBlock { all, read };

struct ModelConfig {
  Upscaling upscaling = Upscaling::attention_linear;  // source
  int width = 512, blocks = 4, heads = 4;             // source; E, H
  double dropout = 0.01;                              // source; backbone
  LastBlock last_block = LastBlock::all;              // ours; pre-training only: fine-tuning always takes those read
  NormOrder norm = NormOrder::post;                   // ours; source: "as in the original transformer"
  Position position = Position::learned;              // ours
  int max_length = 0;                                 // ours; 0 = data.window
};

struct HeadConfig {
  std::vector<int> hidden{64};    // source; fine-tuning [16]
  double dropout = 0.02;          // source; fine-tuning .16
  bool batch_norm = true;         // source
  HeadRows rows = HeadRows::all;  // source; pre-training only
  Pool pool = Pool::last;         // source; fine-tuning only
};

/// Head width at model width w with H heads: d(w) = ceil(w / H).
constexpr int head_width(int width, int heads) { return (width + heads - 1) / heads; }

}  // namespace blinkbert
