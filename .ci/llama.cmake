# Read by CMake right after llama.cpp's own project() line (CMAKE_PROJECT_<name>_INCLUDE):
# llama-cpp-python ships libllama and ggml alone, yet forces this library of the command-line tools
# to be compiled, which takes as long as the rest together.
set(LLAMA_BUILD_COMMON OFF)
