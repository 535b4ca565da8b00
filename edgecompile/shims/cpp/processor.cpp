// Prints AT_HWCAP, AT_HWCAP2 and MIDR_EL1 in hexadecimal: what an arm64 processor says of itself.
#include <sys/auxv.h>

#include <cstdio>

int main() {
  unsigned long midr = 0;
  asm("mrs %0, MIDR_EL1" : "=r"(midr));  // Linux and qemu answer it in user mode
  std::printf("%lx %lx %lx\n", getauxval(AT_HWCAP), getauxval(AT_HWCAP2), midr);
}
