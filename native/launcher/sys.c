#define _GNU_SOURCE
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
  NR_PIDFD_SEND_SIGNAL = 424,
  NR_OPEN_TREE = 428,
  NR_MOVE_MOUNT = 429,
  NR_FSOPEN = 430,
  NR_FSCONFIG = 431,
  NR_FSMOUNT = 432,
  NR_PIDFD_OPEN = 434,
  NR_CLOSE_RANGE = 436,
  NR_OPENAT2 = 437,
  NR_MOUNT_SETATTR = 442,
};

int sys_open_tree(int dirfd, const char *path, unsigned flags) {
  return (int)syscall(NR_OPEN_TREE, dirfd, path, flags);
}

int sys_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
  return (int)syscall(NR_MOVE_MOUNT, from_fd, from, to_fd, to, flags);
}

int sys_mount_setattr(int fd, unsigned flags, uint64_t set, int userns_fd) {
  struct {
    uint64_t set, clear, propagation, userns;
  } attr = {set, 0, 0, set & WARREN_MOUNT_ATTR_IDMAP ? (uint64_t)userns_fd : 0};
  return (int)syscall(NR_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof attr);
}

enum { FSOPEN_CLOEXEC_FLAG = 1, FSMOUNT_CLOEXEC_FLAG = 1, FSCONFIG_FLAG = 0, FSCONFIG_STRING = 1, FSCONFIG_CREATE = 6 };

int sys_fsopen(const char *type) { return (int)syscall(NR_FSOPEN, type, FSOPEN_CLOEXEC_FLAG); }

int sys_fsconfig_string(int fs, const char *key, const char *value) {
  return (int)syscall(NR_FSCONFIG, fs, FSCONFIG_STRING, key, value, 0);
}

int sys_fsconfig_flag(int fs, const char *key) { return (int)syscall(NR_FSCONFIG, fs, FSCONFIG_FLAG, key, NULL, 0); }

int sys_fsconfig_create(int fs) { return (int)syscall(NR_FSCONFIG, fs, FSCONFIG_CREATE, NULL, NULL, 0); }

int sys_fsmount(int fs, unsigned attributes) {
  return (int)syscall(NR_FSMOUNT, fs, FSMOUNT_CLOEXEC_FLAG, attributes);
}

int sys_openat2(int dirfd, const char *path, uint64_t flags, uint64_t resolve) {
  struct {
    uint64_t flags, mode, resolve;
  } how = {flags, 0, resolve};
  return (int)syscall(NR_OPENAT2, dirfd, path, &how, sizeof how);
}

int sys_memfd_create(const char *name) {
  enum { CLOEXEC = 1, ALLOW_SEALING = 2, EXEC = 16 };
  int fd = (int)syscall(SYS_memfd_create, name, CLOEXEC | ALLOW_SEALING | EXEC);
  // Kernels before 6.3 don't know EXEC, and need none.
  return fd >= 0 || errno != EINVAL ? fd : (int)syscall(SYS_memfd_create, name, CLOEXEC | ALLOW_SEALING);
}

int sys_execveat(int fd, char *const *argv, char *const *env) {
  return (int)syscall(SYS_execveat, fd, "", argv, env, AT_EMPTY_PATH);
}

ssize_t sys_copy_file_range(int from, int to, off_t at, size_t length) {
  int64_t from_at = at, to_at = at;
  return syscall(SYS_copy_file_range, from, &from_at, to, &to_at, length, 0);
}

int sys_pidfd_open(pid_t pid) { return (int)syscall(NR_PIDFD_OPEN, pid, 0); }

int sys_pidfd_kill(int pidfd, int signal) { return (int)syscall(NR_PIDFD_SEND_SIGNAL, pidfd, signal, NULL, 0); }

void close_from(int first) {
  if (syscall(NR_CLOSE_RANGE, first, ~0U, 0) == 0) return;
  for (int fd = first; fd < 4096; fd++) close(fd);
}

ssize_t read_file(const char *path, char *buffer, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t total = 0;
  ssize_t n;
  while (total < size - 1 && (n = read(fd, buffer + total, size - 1 - total)) != 0) {
    if (n < 0) {
      if (errno == EINTR) continue;
      close(fd);
      return -1;
    }
    total += (size_t)n;
  }
  close(fd);
  buffer[total] = 0;
  return (ssize_t)total;
}

uint64_t process_start(pid_t pid) {
  char path[48], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  if (read_file(path, text, sizeof text) <= 0) return 0;
  // The name (field 2) may hold anything, so count from its closing parenthesis: state is field 3.
  char *p = strrchr(text, ')');
  if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
  p += 2;
  for (int field = 3; field < 22; field++) {
    p = strchr(p, ' ');
    if (!p) return 0;
    p++;
  }
  return strtoull(p, NULL, 10);
}

int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void reset_signals(void) {
  for (int s = 1; s < 32; s++)
    if (s != SIGKILL && s != SIGSTOP) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}
