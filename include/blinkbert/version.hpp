#pragma once

// The version of the library; CMake reads it from here.
#define BLINKBERT_VERSION "0.1.0"
