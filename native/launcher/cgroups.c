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

// Rounds of moving: in each, what was forked meanwhile. The guest forks once for its main command.
enum { MOST_ROUNDS = 100, PROCS_SIZE = 65536 };

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
  if (length(g->handed) > MAX_HANDED_GROUPS || length(g->files) != length(g->values) || !all_absolute(g->dirs) ||
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

size_t make_groups(const struct groups *g, int *fds) {
  for (char **dir = g->dirs; *dir; dir++)
    if (mkdir(*dir, 0755) < 0 && errno != EEXIST) answer_error(errno, "could not make the cgroup %s", *dir);
  if (g->from[0] == 0) put_all(g);
  size_t count = 0;
  for (; g->handed[count]; count++) {
    fds[count] = open(g->handed[count], O_WRONLY | O_CLOEXEC);
    if (fds[count] < 0) answer_error(errno, "could not open %s", g->handed[count]);
  }
  return count;
}

// How many members the file named.
static size_t move_members(const char *from, int to) {
  char text[PROCS_SIZE];
  ssize_t bytes = read_file(from, text, sizeof text);
  if (bytes < 0) answer_error(errno, "could not read %s", from);
  size_t count = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), count++)
    if (write(to, line, strlen(line)) < 0 && errno != ESRCH) answer_error(errno, "could not move process %s", line);
  return count;
}

void settle_groups(const struct groups *g) {
  if (g->from[0] == 0) return;
  int to = open(g->to, O_WRONLY | O_CLOEXEC);
  if (to < 0) answer_error(errno, "could not open %s", g->to);
  int round = 0;
  while (move_members(g->from, to) > 0 && round < MOST_ROUNDS) round++;
  close(to);
  if (round == MOST_ROUNDS) answer_error(EBUSY, "could not empty %s", g->from);
  put_all(g);
}
