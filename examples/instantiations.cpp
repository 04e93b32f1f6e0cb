#include "instantiations.hpp"

BLINKBERT_INSTANTIATE()
