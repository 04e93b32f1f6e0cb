#pragma once

// Rounding to Real on the CPU, whose types are their own wide types: a copy.

#include <algorithm>

#include <blinkbert/backend/cpu/device.hpp>
#include <blinkbert/ops/narrowing.hpp>

namespace blinkbert {

template <class Real>
void run(Cpu<Real>&, const Narrowing<Real>& op) {
  op.check();
  if (op.y.data() != op.x.data()) std::copy_n(op.x.data(), op.x.size(), op.y.data());
}

}  // namespace blinkbert
