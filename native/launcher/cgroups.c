#define _GNU_SOURCE
#include "cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

// How long the guest may take to leave: it is the first thing that it does.
enum { LEAVE_MS = 20000, LOOK_US = 200 };

static size_t length(char **list) {
  size_t n = 0;
  while (list[n]) n++;
  return n;
}

static bool all_absolute(char **list) {
  for (; *list; list++)
    if ((*list)[0] != '/') return false;
  return true;
}

void parse_groups(struct groups *g, struct in *in) {
  g->dirs = in_list(in);
  g->handed = in_list(in);
  g->from = in_str(in);
  g->to = in_str(in);
  g->files = in_list(in);
  g->values = in_list(in);
  if (in->bad) return;
  bool moves = g->from[0] != 0;
  if (length(g->handed) + (g->to[0] != 0) > MAX_HANDED_GROUPS || length(g->files) != length(g->values) || !all_absolute(g->dirs) ||
      !all_absolute(g->handed) || !all_absolute(g->files) || moves != (g->to[0] != 0) ||
      (moves && (g->from[0] != '/' || g->to[0] != '/')))
    in->bad = true;
}

// Files of cgroups take a value in one write, or not at all.
static void put(const char *path, const char *value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  ssize_t bytes = (ssize_t)strlen(value);
  if (fd < 0 || write(fd, value, (size_t)bytes) != bytes) answer_error(errno, "could not write %s to %s", value, path);
  close(fd);
}

static void put_all(const struct groups *g) {
  for (size_t i = 0; g->files[i]; i++) put(g->files[i], g->values[i]);
}

static int open_for_guest(const char *path) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) answer_error(errno, "could not open %s", path);
  return fd;
}

size_t make_groups(const struct groups *g, int *fds) {
  for (char **dir = g->dirs; *dir; dir++)
    if (mkdir(*dir, 0755) < 0 && errno != EEXIST) answer_error(errno, "could not make the cgroup %s", *dir);
  if (g->from[0] == 0) put_all(g);
  size_t count = 0;
  for (; g->handed[count]; count++) fds[count] = open_for_guest(g->handed[count]);
  if (g->to[0] != 0) fds[count++] = open_for_guest(g->to);
  return count;
}

void settle_groups(const struct groups *g) {
  if (g->from[0] == 0) return;
  int64_t deadline = now_ms() + LEAVE_MS;
  for (;;) {
    char text[32];
    ssize_t bytes = read_file(g->from, text, sizeof text);
    if (bytes < 0) answer_error(errno, "could not read %s", g->from);
    if (bytes == 0) break;
    if (now_ms() >= deadline) answer_error(EBUSY, "the guest stays in %s", g->from);
    usleep(LOOK_US);
  }
  put_all(g);
}

int join_groups(char **groups) {
  bool is_member = false;
  for (; *groups; groups++) {
    char path[4200];
    int length = snprintf(path, sizeof path, "%s/cgroup.procs", *groups);
    if (length < 0 || (size_t)length >= sizeof path) return ENAMETOOLONG;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) continue;
    if (fd < 0 || write(fd, "0", 1) != 1) return errno;
    close(fd);
    is_member = true;
  }
  return is_member ? 0 : ENOENT;
}
