#pragma once

// The library, except for what needs CUDA, TOML or JSON: include <blinkbert/inference.hpp>, <blinkbert/train/run_folder.hpp>
// or headers of <blinkbert/io/> for those.

#include <blinkbert/backend/cpu.hpp>
#include <blinkbert/core/bf16.hpp>
#include <blinkbert/data/dataset.hpp>
#include <blinkbert/data/row_masks.hpp>
#include <blinkbert/data/simulated_drivers.hpp>
#include <blinkbert/io/npy.hpp>
#include <blinkbert/model/finetuning_model.hpp>
#include <blinkbert/model/pretraining_model.hpp>
#include <blinkbert/objective/baselines.hpp>
#include <blinkbert/objective/masked_rows.hpp>
#include <blinkbert/objective/metrics.hpp>
#include <blinkbert/objective/score.hpp>
#include <blinkbert/train/evaluate.hpp>
#include <blinkbert/train/trainer.hpp>
#include <blinkbert/version.hpp>
