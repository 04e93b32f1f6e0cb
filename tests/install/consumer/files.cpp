#include <blinkbert/inference.hpp>

int main() {
  try {
    const auto model = blinkbert::Model::load("no_such_checkpoint.safetensors");
  } catch (const blinkbert::InputError&) {
    return 0;
  }
  return 1;
}
