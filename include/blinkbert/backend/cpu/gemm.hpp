#pragma once

// The three products of a linear layer: the one seam to Eigen, where oneDNN or CBLAS may stand in.
// Each is called from one thread on its own rows of the result; who splits the rows is the op.

#include <cstdint>

#include <Eigen/Core>

namespace blinkbert::cpu_detail {

/// A row-major matrix inside another: `stride` elements from row to row.
template <class T>
struct Panel {
  T* data = nullptr;
  int rows = 0, columns = 0;
  std::int64_t stride = 0;

  Panel row_range(int first, int last) const { return {data + first * stride, last - first, columns, stride}; }
  Panel column_range(int first, int last) const { return {data + first, rows, last - first, stride}; }
};

template <class T>
auto as_matrix(const Panel<T>& panel) {
  using Matrix = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Kept = std::conditional_t<std::is_const_v<T>, const Matrix, Matrix>;
  return Eigen::Map<Kept, Eigen::Unaligned, Eigen::OuterStride<>>(panel.data, panel.rows, panel.columns,
                                                                 Eigen::OuterStride<>(panel.stride));
}

/// y += x W^T:  y [T, out], x [T, in], W [out, in].
template <class Real>
void add_product_of_rows(const Panel<Real>& y, const Panel<const Real>& x, const Panel<const Real>& weight) {
  as_matrix(y).noalias() += as_matrix(x) * as_matrix(weight).transpose();
}

/// dx += dy W:  dx [T, in], dy [T, out], W [out, in].
template <class Real>
void add_product(const Panel<Real>& dx, const Panel<const Real>& dy, const Panel<const Real>& weight) {
  as_matrix(dx).noalias() += as_matrix(dy) * as_matrix(weight);
}

/// dW += dy^T x:  dW [out, in], dy [T, out], x [T, in].
template <class Real>
void add_product_of_columns(const Panel<Real>& dweight, const Panel<const Real>& dy, const Panel<const Real>& x) {
  as_matrix(dweight).noalias() += as_matrix(dy).transpose() * as_matrix(x);
}

}  // namespace blinkbert::cpu_detail
