#pragma once

// Values rounded to the type that the ops compute with.

#include <blinkbert/core/view.hpp>

namespace blinkbert {

/// y_p = x_p rounded to Real, to nearest, ties to even; a copy where Real is the wide type.
template <class Real>
struct Narrowing {
  View<Real, 1> y;                                             // [P]  out; x itself where the types are the same
  View<const Wide<Real>, 1> x;                                 // [P]

  void check() const {
    const int P = x.extent(0);
    BLINKBERT_EXPECTS(has_shape(y, P) && has_shape(x, P), P);
  }
};

}  // namespace blinkbert
