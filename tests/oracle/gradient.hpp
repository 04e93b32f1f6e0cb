#pragma once

// The reference gradient: the derivative of dot(function(inputs), weights) with respect to one input tensor, one element
// at a time, on duals. The weights stand for dy, random and fixed: a plain sum of the outputs would say nothing about
// softmax or the norms, whose sums are constant.

#include <cstddef>
#include <stdexcept>
#include <vector>

#include <tests/oracle/dual.hpp>

namespace blinkbert::oracle {

/// The inputs of a function, in the order it names them.
template <class Number>
using Tensors = std::vector<std::vector<Number>>;

template <class To, class From>
std::vector<To> converted(const std::vector<From>& from) {
  std::vector<To> to;
  to.reserve(from.size());
  for (const From& element : from) to.push_back(static_cast<To>(element));
  return to;
}

template <class To, class From>
Tensors<To> converted(const Tensors<From>& from) {
  Tensors<To> to;
  for (const std::vector<From>& tensor : from) to.push_back(converted<To>(tensor));
  return to;
}

/// a, then b.
template <class Number>
std::vector<Number> joined(std::vector<Number> a, const std::vector<Number>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// All of `count` elements, or about `most` of them (none if `most` is 0): the first, the last, and one from each of equal stretches, at another
/// place in each, so that no row, column or tile border is always left out.
inline std::vector<std::size_t> some_elements(std::size_t count, std::size_t most) {
  std::vector<std::size_t> elements;
  if (most == 0) return elements;
  const std::size_t stretch = count <= most ? 1 : count / most + 1;
  for (std::size_t i = 0; i * stretch < count; ++i) {
    const std::size_t element = i * stretch + i * 7919 % stretch;
    if (element < count) elements.push_back(element);
  }
  if (!elements.empty() && elements.back() != count - 1) elements.push_back(count - 1);
  return elements;
}

/// d dot(function(inputs), weights) / d inputs[with_respect_to][element] for each of `elements`.
template <class Number, class Function>
std::vector<Number> gradient(const Function& function, const Tensors<Number>& inputs, std::size_t with_respect_to,
                             const std::vector<Number>& weights, const std::vector<std::size_t>& elements) {
  Tensors<Dual<Number>> duals = converted<Dual<Number>>(inputs);
  std::vector<Number> result;
  for (const std::size_t element : elements) {
    duals[with_respect_to][element].derivative = 1;
    const std::vector<Dual<Number>> outputs = function(duals);
    duals[with_respect_to][element].derivative = 0;
    if (outputs.size() != weights.size()) throw std::logic_error("as many weights as outputs");
    Number sum = 0;
    for (std::size_t output = 0; output < outputs.size(); ++output) sum += outputs[output].derivative * weights[output];
    result.push_back(sum);
  }
  return result;
}

}  // namespace blinkbert::oracle
