// For whoever has to change a sandbox's network from outside, once nobody inside may: this program, run on the host.
#include "enter.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OWNER_OF_NAMESPACE _IO(0xb7, 0x1) // NS_GET_USERNS

enum { FROM_NAME_TO_START = 20 }; // fields of /proc/PID/stat

/// Field 22 of /proc/PID/stat; 0: there is no such process.
static uint64_t start_of(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  // The name may hold anything, parentheses included.
  char *at = strrchr(text, ')');
  for (int field = 0; at != NULL && field < FROM_NAME_TO_START; field++) at = strchr(at + 1, ' ');
  return at == NULL ? 0 : strtoull(at, NULL, 10);
}

/// Its network namespace, when it is that process and lives. -1 with errno.
static int open_network(pid_t pid, uint64_t start) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
  // While the process that this one is about lives, nobody else gets its number: what was opened in between is its own.
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0) return -1;
  int net = open(path, O_RDONLY | O_CLOEXEC);
  int error = net >= 0 ? 0 : errno == ENOENT ? ESRCH : errno;
  struct pollfd p = {.fd = process, .events = POLLIN};
  if (error == 0 && (start_of(pid) != start || poll(&p, 1, 0) != 0)) error = ESRCH;
  close(process);
  if (error == 0) return net;
  if (net >= 0) close(net);
  errno = error;
  return -1;
}

static bool is_ours(int ns, const char *path) {
  struct stat theirs, ours;
  return fstat(ns, &theirs) == 0 && stat(path, &ours) == 0 && theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/// The rights over a network are those in the user namespace that it belongs to.
static bool join(int net) {
  int owner = ioctl(net, OWNER_OF_NAMESPACE);
  if (owner < 0) return false;
  bool ok = is_ours(owner, "/proc/self/ns/user") || setns(owner, CLONE_NEWUSER) == 0;
  int error = errno;
  close(owner);
  errno = error;
  return ok && setns(net, CLONE_NEWNET) == 0;
}

bool enter_network(pid_t pid, uint64_t start) {
  int net = open_network(pid, start);
  if (net < 0) return false;
  // One that has the machine's own is no sandbox with a network of its own.
  bool shared = is_ours(net, "/proc/self/ns/net");
  bool ok = !shared && join(net);
  int error = shared ? EINVAL : errno;
  close(net);
  errno = error;
  return ok;
}
