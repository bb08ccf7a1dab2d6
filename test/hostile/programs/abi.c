// Forbidden calls by the kernel's other doors on x86-64: int 0x80 with 32-bit numbers, and the x32 bit. A filter that knows
// one table only lets them pass (seccomp(2), "Caveats").
#include "probe.h"

#include <stdint.h>

#if defined __x86_64__
static long via_int80(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
  result = (int)result;
  if (result < 0) {
    errno = (int)-result;
    return -1;
  }
  return result;
}
// Numbers of arch/x86/entry/syscalls/syscall_32.tbl. Pointers would have to lie below 4 GiB; none is needed to be refused.
static long int80_getpid(void) {
  return via_int80(20, 0, 0, 0);
}
static long int80_unshare_user(void) {
  return via_int80(310, CLONE_NEWUSER, 0, 0);
}
static long int80_unshare_mnt(void) {
  return via_int80(310, CLONE_NEWNS, 0, 0);
}
static long int80_clone_user(void) {
  long pid = via_int80(120, CLONE_NEWUSER | SIGCHLD, 0, 0);
  if (pid == 0) _exit(0);
  return pid;
}
static long int80_keyctl(void) {
  return via_int80(288, 0, -2, 1);
}
static long int80_reboot(void) {
  return via_int80(88, 1, 2, 0x01234567);
}
static long int80_userfaultfd(void) {
  return via_int80(374, 0, 0, 0);
}
static long int80_swapon(void) {
  return via_int80(87, 0, 0, 0);
}
static long int80_acct(void) {
  // Without a guard: EFAULT.
  return via_int80(51, 1, 0, 0);
}
static long int80_socket_vsock(void) {
  return via_int80(359, 40, 1, 0);
}
static long int80_socket_packet(void) {
  return via_int80(359, 17, 3, 0);
}
static long int80_socketcall(void) {
  // Its arguments are behind a pointer, where no filter sees the family. Without a guard: EFAULT.
  return via_int80(102, 1 /* SYS_SOCKET */, 1, 0);
}
static long int80_io_uring_setup(void) {
  return via_int80(425, 4, 1, 0);
}
static long int80_bpf(void) {
  return via_int80(357, 0, 1, 120);
}
static long int80_ptrace_init(void) {
  return via_int80(26, 0x4206 /* SEIZE: stops nothing */, 1, 0);
}
static long int80_vm86old(void) {
  return via_int80(113, 1, 0, 0);
}
static long x32(long number, long a, long b) {
  return syscall(0x40000000L | number, a, b, 0, 0, 0, 0);
}
static long x32_unshare_user(void) {
  return x32(SYS_unshare, CLONE_NEWUSER, 0);
}
static long x32_keyctl(void) {
  return x32(SYS_keyctl, 0, -2);
}
static long x32_userfaultfd(void) {
  return x32(SYS_userfaultfd, 0, 0);
}

int main(void) {
  ATTEMPT(int80_getpid);
  ATTEMPT(int80_unshare_user);
  ATTEMPT(int80_unshare_mnt);
  ATTEMPT(int80_clone_user);
  ATTEMPT(int80_keyctl);
  ATTEMPT(int80_reboot);
  ATTEMPT(int80_userfaultfd);
  ATTEMPT(int80_swapon);
  ATTEMPT(int80_acct);
  ATTEMPT(int80_socket_vsock);
  ATTEMPT(int80_socket_packet);
  ATTEMPT(int80_socketcall);
  ATTEMPT(int80_io_uring_setup);
  ATTEMPT(int80_bpf);
  ATTEMPT(int80_ptrace_init);
  ATTEMPT(int80_vm86old);
  ATTEMPT(x32_unshare_user);
  ATTEMPT(x32_keyctl);
  ATTEMPT(x32_userfaultfd);
  return 0;
}
#else
int main(void) {
  return 0;
}
#endif
