#pragma once

// The whole model in plain loops, put together from the ops' oracles by the contract's section on the model, with
// parameters found by their checkpoint names. It shares no code with the library's layers: only the names of the
// choices.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <blinkbert/layers/options.hpp>
#include <tests/oracle/activation.hpp>
#include <tests/oracle/batch_norm.hpp>
#include <tests/oracle/dropout.hpp>
#include <tests/oracle/embed_rows.hpp>
#include <tests/oracle/gather_rows.hpp>
#include <tests/oracle/layer_norm.hpp>
#include <tests/oracle/linear.hpp>
#include <tests/oracle/masked_attention.hpp>
#include <tests/oracle/residual_norm.hpp>

namespace blinkbert::oracle {

/// Values by checkpoint name, batch norm's running values among them.
template <class Number>
using Parameters = std::map<std::string, std::vector<Number>>;

enum class Passes { training, evaluation };

/// What a pass knows.
struct PassCase {
  Passes mode = Passes::evaluation;
  std::uint64_t seed = 0;
  std::uint32_t step = 0, first_sequence = 0;
  std::vector<int> lengths;               // [B]
  std::vector<std::vector<int>> visible;  // [B][L]  not 0 = may be attended to
  int L = 0;
};

template <class Number>
struct ModelResult {
  std::vector<Number> output;     // [R, out]  zeros where there is no real row
  Parameters<Number> statistics;  // the running values afterwards
};

template <class Number>
class Model {
 public:
  using Values = std::vector<Number>;

  Model(const Parameters<Number>& parameters, const ModelConfig& model, const HeadConfig& head, int features,
        const PassCase& pass)
      : parameters_(parameters), model_(model), head_(head), N_(features), pass_(pass) {}

  /// x [T, N]; rows [R] = the rows that the head reads, -1 for none -> [R, outputs].
  ModelResult<Number> operator()(const Values& x, const std::vector<int>& rows, int outputs) const {
    const Values y = encoder(x);
    return head(gather_rows(y, rows, model_.width), rows, outputs);
  }

  /// x [T, N] -> [T, E].
  Values encoder(const Values& x) const {
    Values y = embedding(x);
    for (int i = 0; i < model_.blocks; ++i) {
      y = block(y, "backbone.encoder.layers." + std::to_string(i), model_.width, static_cast<std::uint32_t>(i));
    }
    return y;
  }

  /// x [T, N] -> [T, E], zeros in padded rows.
  Values embedding(const Values& x) const {
    const int E = model_.width;
    Values clean = x;
    for (int t = 0; t < T(); ++t) {
      for (int n = 0; n < N_ && t % pass_.L >= pass_.lengths[t / pass_.L]; ++n) clean[t * N_ + n] = Number(0);
    }
    const std::string name = "backbone.upscaling";
    switch (model_.upscaling) {
      case Upscaling::none:
        return embed_rows({}, clean, {}, {}, positions(), pass_.lengths, pass_.L, 0, E, E);
      case Upscaling::linear:
        return upscaled(clean, {}, 0);
      case Upscaling::attention_linear:
        return upscaled(block(clean, name + ".block", N_, 255), {}, 0);
      case Upscaling::attention_concatenation:
        return upscaled(clean, block(clean, name + ".block", N_, 255), N_);
    }
    return {};
  }

  /// One block at width w.
  Values block(const Values& x, const std::string& name, int w, std::uint32_t layer) const {
    const DropoutCase after_attention = dropout(7, layer, model_.dropout);
    const DropoutCase after_feed_forward = dropout(8, layer, model_.dropout);
    const auto add = [&](const Values& a, const Values& branch, const DropoutCase& drop) {
      return residual(a, branch, all_rows(T()), pass_.L, w, drop);
    };
    const auto norm = [&](const Values& a, const std::string& which) {
      return layer_norm(a, get(name + which + ".weight"), get(name + which + ".bias"), T(), w, 1e-5f).y;
    };
    if (model_.norm == NormOrder::post) {
      const Values u = norm(add(x, attention(x, name + ".self_attn", w, layer), after_attention), ".norm1");
      return norm(add(u, feed_forward(u, name, w), after_feed_forward), ".norm2");
    }
    const Values u = add(x, attention(norm(x, ".norm1"), name + ".self_attn", w, layer), after_attention);
    return add(u, feed_forward(norm(u, ".norm2"), name, w), after_feed_forward);
  }

  /// x [R, E], row r of it being row rows[r] of the batch.
  ModelResult<Number> head(Values x, const std::vector<int>& rows, int outputs) const {
    const int R = static_cast<int>(rows.size());
    std::vector<int> is_real;
    for (const int t : rows) is_real.push_back(t >= 0 && t % pass_.L < pass_.lengths[t / pass_.L] ? 1 : 0);
    ModelResult<Number> result;
    int in = model_.width;
    for (std::size_t i = 0; i < head_.hidden.size(); ++i) {
      const std::string number = std::to_string(i), norm = "head.norm." + number;
      const int F = head_.hidden[i];
      x = linear(x, get("head.hidden." + number + ".weight"), get("head.hidden." + number + ".bias"), R, in, F);
      if (head_.batch_norm) {
        const Statistics which = pass_.mode == Passes::training ? Statistics::batch : Statistics::running;
        const auto normalised = batch_norm(x, get(norm + ".weight"), get(norm + ".bias"), get(norm + ".running_mean"),
                                           get(norm + ".running_var"), is_real, F, which, 1e-5f, 0.1f);
        x = normalised.y;
        result.statistics[norm + ".running_mean"] = normalised.running_mean;
        result.statistics[norm + ".running_var"] = normalised.running_variance;
      }
      x = activation(x, rows, pass_.L, F, dropout(9, static_cast<std::uint32_t>(i), head_.dropout));
      in = F;
    }
    result.output = linear(x, get("head.output.weight"), get("head.output.bias"), R, in, outputs);
    for (int r = 0; r < R; ++r) {
      for (int o = 0; o < outputs && is_real[r] == 0; ++o) result.output[r * outputs + o] = Number(0);
    }
    return result;
  }

 private:
  int B() const { return static_cast<int>(pass_.lengths.size()); }
  int T() const { return B() * pass_.L; }
  const Values& get(const std::string& name) const { return parameters_.at(name); }

  DropoutCase dropout(std::uint32_t purpose, std::uint32_t layer, double drop_probability) const {
    return {.drop_probability = pass_.mode == Passes::training ? drop_probability : 0,
            .seed = pass_.seed,
            .purpose = purpose,
            .layer = layer,
            .step = pass_.step,
            .first_sequence = pass_.first_sequence};
  }

  Values attention(const Values& x, const std::string& name, int w, std::uint32_t layer) const {
    const int H = model_.heads, D = (w + H - 1) / H;
    const Values qkv = linear(x, get(name + ".in_proj_weight"), get(name + ".in_proj_bias"), T(), w, 3 * H * D);
    const Values o =
        masked_attention(qkv, pass_.visible, pass_.lengths, pass_.L, H, D, dropout(6, layer, model_.dropout));
    return linear(o, get(name + ".out_proj.weight"), get(name + ".out_proj.bias"), T(), H * D, w);
  }

  Values feed_forward(const Values& x, const std::string& name, int w) const {
    const Values h = linear(x, get(name + ".linear1.weight"), get(name + ".linear1.bias"), T(), w, 4 * w);
    return linear(gelu(h), get(name + ".linear2.weight"), get(name + ".linear2.bias"), T(), 4 * w, w);
  }

  Values upscaled(const Values& x, const Values& prefix, int K) const {
    return embed_rows(x, prefix, get("backbone.upscaling.linear.weight"), get("backbone.upscaling.linear.bias"),
                      positions(), pass_.lengths, pass_.L, N_, K, model_.width);
  }

  /// Learned, or sin and cos in turns: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
  Values positions() const {
    if (model_.position == Position::learned) return get("backbone.position.weight");
    Values table;
    for (int l = 0; l < pass_.L; ++l) {
      for (int e = 0; e < model_.width; ++e) {
        const double angle = l * std::exp(-std::log(10000.0) * (2 * (e / 2)) / model_.width);
        table.push_back(Number(e % 2 == 0 ? std::sin(angle) : std::cos(angle)));
      }
    }
    return table;
  }

  const Parameters<Number>& parameters_;
  const ModelConfig& model_;
  const HeadConfig& head_;
  int N_;
  const PassCase& pass_;
};

}  // namespace blinkbert::oracle
