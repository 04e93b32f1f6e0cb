#pragma once

// The complete CPU backend: Cpu<float> trains, Cpu<double> checks gradients.

#include <blinkbert/backend/backend.hpp>
#include <blinkbert/backend/cpu/activation.hpp>
#include <blinkbert/backend/cpu/adamw.hpp>
#include <blinkbert/backend/cpu/append_statistics.hpp>
#include <blinkbert/backend/cpu/batch_norm.hpp>
#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/backend/cpu/embed_rows.hpp>
#include <blinkbert/backend/cpu/gather_rows.hpp>
#include <blinkbert/backend/cpu/gathered_attention.hpp>
#include <blinkbert/backend/cpu/layer_norm.hpp>
#include <blinkbert/backend/cpu/linear.hpp>
#include <blinkbert/backend/cpu/masked_attention.hpp>
#include <blinkbert/backend/cpu/masked_loss.hpp>
#include <blinkbert/backend/cpu/mean_rows.hpp>
#include <blinkbert/backend/cpu/narrowing.hpp>
#include <blinkbert/backend/cpu/residual_norm.hpp>
#include <blinkbert/backend/cpu/row_masks.hpp>
#include <blinkbert/backend/cpu/score_loss.hpp>
#include <blinkbert/backend/cpu/sum_of_squares.hpp>
#include <blinkbert/backend/cpu/zero_padding.hpp>

namespace blinkbert {

static_assert(Backend<Cpu<float>>);
static_assert(Backend<Cpu<double>>);

}  // namespace blinkbert
