"""Bundles on arm64 processors that are not here: qemu-user, aarch64 libraries, a C++ runner.

`levels` names the processors, `tools` finds qemu and the cross compiler, `downloads` brings pinned
files, `kits` makes headers and libraries of them, `runner` compiles and starts shims/cpp.
"""
