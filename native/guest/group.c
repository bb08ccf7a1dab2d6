// Limits hold for commands and not for the guest, so that it answers when they are used up. Commands begin in a cgroup whose
// number of processes is limited: one more that the guest puts there is let in, but can't fork when it is full. What goes
// on for a while is put where processor time and memory are limited as well: with cgroup v1 that is one cgroup for each.
// docs/runtimes/oci.md has the picture.
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/// The last part of the limited cgroups' paths, as src/runtimes/common/payload-groups.ts names it.
static const char limited_name[] = "/limited";

static bool has_first;
static size_t limited_count;

static bool keep(int fd, int as) {
  int from = fd >= 0 ? fd : open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (from < 0 || dup3(from, as, O_CLOEXEC) < 0) return false;
  close(from);
  return true;
}

bool groups_keep(int first, const int *limited, size_t count) {
  has_first = first >= 0;
  limited_count = count;
  if (!has_first && count == 0) return true;
  if (!keep(first, FD_FIRST)) return false;
  for (size_t i = 0; i < count; i++)
    if (!keep(limited[i], FD_LIMITED + (int)i)) return false;
  return true;
}

int first_free_fd(void) {
  return has_first || limited_count > 0 ? FD_LIMITED + (int)limited_count : FD_FIRST;
}

bool groups_limit_later(void) {
  return limited_count > 0;
}

/// The kernel judges a move by who opened the file. That was the launcher; nobody inside could.
static bool put(int fd, const char *pid) {
  return write(fd, pid, strlen(pid)) > 0 || errno == ESRCH;
}

static bool put_limited(const char *pid) {
  for (size_t i = 0; i < limited_count; i++)
    if (!put(FD_LIMITED + (int)i, pid)) return false;
  return true;
}

bool groups_join(bool limited) {
  return (!has_first || put(FD_FIRST, "0")) && (!limited || put_limited("0"));
}

bool groups_limit(pid_t pid) {
  char text[16];
  snprintf(text, sizeof text, "%d", (int)pid);
  return put_limited(text);
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
  // A child that is born between two moves of its parent is in one of them only.
  size_t found = 0;
  for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
    size_t bytes = sizeof limited_name - 1;
    if ((size_t)(end - line) >= bytes && memcmp(end - bytes, limited_name, bytes) == 0) found++;
  }
  return found >= limited_count;
}
