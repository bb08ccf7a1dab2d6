// Limits hold for commands and not for the guest, so that it answers when they are used up. Commands begin in a cgroup whose
// number of processes is limited: one more that the guest puts there is let in, but can't fork when it is full. What goes
// on for a while is put into one whose processor time is limited as well. docs/runtimes/oci.md has the picture.
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/// The last part of the limited cgroup's path, as src/runtimes/oci/payload-groups.ts names it.
static const char limited_name[] = "/limited";

static bool has_first, has_limited;

static bool keep(int fd, int as) {
  int from = fd >= 0 ? fd : open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (from < 0 || dup3(from, as, O_CLOEXEC) < 0) return false;
  close(from);
  return true;
}

bool groups_keep(int first, int limited) {
  has_first = first >= 0;
  has_limited = limited >= 0;
  if (!has_first && !has_limited) return true;
  return keep(first, FD_FIRST) && keep(limited, FD_LIMITED);
}

int first_free_fd(void) {
  return has_first || has_limited ? FD_LIMITED + 1 : FD_FIRST;
}

bool groups_limit_later(void) {
  return has_limited;
}

/// The kernel judges a move by who opened the file. That was the launcher; nobody inside could.
static bool put(int fd, const char *pid) {
  return write(fd, pid, strlen(pid)) > 0 || errno == ESRCH;
}

bool groups_join(bool limited) {
  return (!has_first || put(FD_FIRST, "0")) && (!limited || !has_limited || put(FD_LIMITED, "0"));
}

bool groups_limit(pid_t pid) {
  char text[16];
  snprintf(text, sizeof text, "%d", (int)pid);
  return put(FD_LIMITED, text);
}

bool groups_is_limited(pid_t pid) {
  char text[4096];
  snprintf(text, sizeof text, "%d/cgroup", (int)pid);
  int fd = openat(FD_PROC, text, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n < 0) return errno == ESRCH;
  text[n] = 0;
  for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
    size_t bytes = sizeof limited_name - 1;
    if ((size_t)(end - line) >= bytes && memcmp(end - bytes, limited_name, bytes) == 0) return true;
  }
  return false;
}
