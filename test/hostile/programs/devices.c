// Making device nodes, and putting input into the terminal that others read.
#include "probe.h"

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

static long make_node(const char *path, mode_t type, unsigned major_, unsigned minor_) {
  long result = mknod(path, type | 0666, makedev(major_, minor_));
  int error = errno;
  unlink(path);
  errno = error;
  return result;
}
static long block_device(void) {
  return make_node("/tmp/block", S_IFBLK, 8, 0);
}
static long loop_device(void) {
  return make_node("/tmp/loop", S_IFBLK, 7, 0);
}
static long kernel_memory(void) {
  return make_node("/tmp/mem", S_IFCHR, 1, 1);
}
static long null_device(void) {
  return make_node("/tmp/null", S_IFCHR, 1, 3);
}
static long kvm_device(void) {
  return make_node("/tmp/kvm", S_IFCHR, 10, 232);
}
static long fuse_device(void) {
  return make_node("/tmp/fuse", S_IFCHR, 10, 229);
}
static long null_device_in_dev(void) {
  return make_node("/dev/warren-hostile", S_IFCHR, 1, 3);
}
static long tiocsti(void) {
  return ioctl(0, TIOCSTI, "\n");
}
static long tiocsti_with_high_bits(void) {
  // CVE-2019-7303: the kernel looks at 32 bits of the command, a careless filter at 64.
  return syscall(SYS_ioctl, 0L, 0x100000000L | TIOCSTI, "\n");
}
static long tioclinux_paste(void) {
  return ioctl(0, TIOCLINUX, "\3");
}
static long tioclinux_with_high_bits(void) {
  return syscall(SYS_ioctl, 0L, 0x100000000L | TIOCLINUX, "\3");
}
static long tioccons(void) {
  return ioctl(0, TIOCCONS, 0);
}

int main(int argc, char **argv) {
  // Without the guard's terminal: one of our own. What is put into it is read by nobody.
  if (argc > 1 && strcmp(argv[1], "own-terminal") == 0) {
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    if (master < 0) master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY);
    char name[64];
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 || ptsname_r(master, name, sizeof name) != 0) return 1;
    setsid();
    int slave = open(name, O_RDWR);
    if (slave < 0 || ioctl(slave, TIOCSCTTY, 0) != 0 || dup2(slave, 0) < 0) return 2;
  }
  if (argc > 1) {
    ATTEMPT(tiocsti);
    ATTEMPT(tiocsti_with_high_bits);
    ATTEMPT(tioclinux_paste);
    ATTEMPT(tioclinux_with_high_bits);
    ATTEMPT(tioccons);
    return 0;
  }
  ATTEMPT(block_device);
  ATTEMPT(loop_device);
  ATTEMPT(kernel_memory);
  ATTEMPT(null_device);
  ATTEMPT(kvm_device);
  ATTEMPT(fuse_device);
  ATTEMPT(null_device_in_dev);
  return 0;
}
