// Reaching into PID 1 and the supervisors between it and this process: their memory, descriptors. (Root inside may list the
// numbers of PID 1's descriptors, and offer it to the OOM killer: that ends its own sandbox, nothing else.)
#include "probe.h"

#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

static long victim;

static long ptrace_attach(void) {
  long result = ptrace(PTRACE_ATTACH, (pid_t)victim, NULL, NULL);
  if (result == 0) {
    waitpid((pid_t)victim, NULL, __WALL);
    ptrace(PTRACE_DETACH, (pid_t)victim, NULL, NULL);
  }
  return result;
}
static long ptrace_seize(void) {
  return ptrace(PTRACE_SEIZE, (pid_t)victim, NULL, NULL);
}
static long vm_call(long number) {
  // An address need not be right: permission is checked first, and a wrong address is EFAULT.
  char byte;
  struct iovec mine = {&byte, 1}, theirs = {(void *)8, 1};
  return syscall(number, victim, &mine, 1, &theirs, 1, 0);
}
static long process_vm_readv_(void) {
  return vm_call(SYS_process_vm_readv);
}
static long process_vm_writev_(void) {
  return vm_call(SYS_process_vm_writev);
}
static long pidfd_getfd(void) {
  int pidfd = (int)syscall(SYS_pidfd_open, victim, 0);
  if (pidfd < 0) return -1;
  for (int fd = 0; fd < 64; fd++) {
    if (syscall(SYS_pidfd_getfd, pidfd, fd, 0) >= 0) return 0;
    if (errno != EBADF) return -1;
  }
  return -1;
}
static long kcmp_file(void) {
  return syscall(SYS_kcmp, getpid(), victim, 0 /* KCMP_FILE */, 0, 0);
}
static long open_of(const char *file, int flags) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%ld/%s", victim, file);
  return open(path, flags | O_CLOEXEC);
}
static long open_mem(void) {
  return open_of("mem", O_RDWR);
}
static long open_mem_reading(void) {
  return open_of("mem", O_RDONLY);
}
static long open_exe(void) {
  return open_of("exe", O_RDONLY);
}
static long open_root(void) {
  return open_of("root", O_RDONLY);
}
static long open_cwd(void) {
  return open_of("cwd", O_RDONLY);
}
static long open_maps(void) {
  return open_of("maps", O_RDONLY);
}
static long open_environ(void) {
  return open_of("environ", O_RDONLY);
}
static long open_ns_mnt(void) {
  return open_of("ns/mnt", O_RDONLY);
}
static long open_fd_entries(void) {
  for (int fd = 0; fd < 64; fd++) {
    char file[16];
    snprintf(file, sizeof file, "fd/%d", fd);
    if (open_of(file, O_PATH) >= 0) return 0;
    if (errno != ENOENT) return -1;
  }
  return -1;
}

static void all_of(long pid, const char *who) {
  static const struct {
    const char *name;
    long (*call)(void);
  } attacks[] = {
    {"ptrace_attach", ptrace_attach},
    {"ptrace_seize", ptrace_seize},
    {"process_vm_readv", process_vm_readv_},
    {"process_vm_writev", process_vm_writev_},
    {"pidfd_getfd", pidfd_getfd},
    {"kcmp", kcmp_file},
    {"mem", open_mem},
    {"mem for reading", open_mem_reading},
    {"exe", open_exe},
    {"root", open_root},
    {"cwd", open_cwd},
    {"fd/N", open_fd_entries},
    {"maps", open_maps},
    {"environ", open_environ},
    {"ns/mnt", open_ns_mnt},
  };
  victim = pid;
  for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s %s", who, attacks[i].name);
    attempt_with(name, without_argument, (long)attacks[i].call);
  }
}

// With "bare", this process is PID 1 itself, and a child is the attacker's supervisor.
int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "bare") == 0) {
    pid_t supervisor = fork();
    if (supervisor == 0) {
      pid_t attacker = fork();
      if (attacker == 0) {
        all_of(1, "init");
        all_of(getppid(), "supervisor");
        exit(0);
      }
      waitpid(attacker, NULL, 0);
      _exit(0);
    }
    waitpid(supervisor, NULL, 0);
    return 0;
  }
  all_of(1, "init");
  all_of(getppid(), "supervisor");
  return 0;
}
