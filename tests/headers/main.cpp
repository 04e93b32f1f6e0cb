// Linked with one translation unit per header: a function that a header forgot to make `inline` is defined twice here.
#include <blinkbert/blinkbert.hpp>

int main() { return 0; }
