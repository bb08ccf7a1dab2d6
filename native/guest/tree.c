#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PROC_SUPER_MAGIC 0x9fa0
/// How long stopping may take before killing starts.
#define STOP_NS (60 * 1000000ull)
/// Rounds of tree_limit() in which the members run on: enough for all but those that fork as fast as they can.
#define FREE_ROUNDS 4
#define MOST_ROUNDS 100

static bool proc_usable;

void open_proc(void) {
  int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  struct statfs fs;
  char self[32];
  ssize_t n = -1;
  if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC) n = readlinkat(fd, "self", self, sizeof self - 1);
  if (n > 0) {
    self[n] = 0;
    proc_usable = atol(self) == getpid();
  }
  if (fd < 0) fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0 && fd != FD_PROC) {
    dup3(fd, FD_PROC, O_CLOEXEC);
    close(fd);
  }
}

bool have_proc(void) {
  return proc_usable;
}

struct process {
  pid_t pid;
  pid_t parent;
  enum { UNKNOWN, OUTSIDE, MEMBER, SPARED } mark;
  bool ended;
};

struct snapshot {
  struct process *all; // by pid
  size_t count;
  size_t room;
};

static bool add(struct snapshot *s, struct process p) {
  if (s->count == s->room) {
    size_t room = s->room > 0 ? s->room * 2 : 128;
    struct process *all = realloc(s->all, room * sizeof *all);
    if (all == NULL) return false;
    s->all = all;
    s->room = room;
  }
  s->all[s->count++] = p;
  return true;
}

static bool read_stat(const char *pid_name, struct process *p) {
  char path[32];
  char text[512];
  snprintf(path, sizeof path, "%.16s/stat", pid_name);
  int fd = openat(FD_PROC, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = 0;
  // pid (name) state parent …: the name may hold anything, parentheses included.
  char *after = strrchr(text, ')');
  char state = 0;
  int parent = 0;
  if (after == NULL || sscanf(after + 1, " %c %d", &state, &parent) != 2) return false;
  p->pid = atoi(pid_name);
  p->parent = parent;
  p->ended = state == 'Z' || state == 'X';
  p->mark = UNKNOWN;
  return p->pid > 0;
}

static int by_pid(const void *a, const void *b) {
  const struct process *x = a, *y = b;
  return (x->pid > y->pid) - (x->pid < y->pid);
}

static bool take_snapshot(struct snapshot *s) {
  s->count = 0;
  if (!proc_usable) return false;
  int fd = openat(FD_PROC, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
  if (dir == NULL) {
    if (fd >= 0) close(fd);
    return false;
  }
  bool whole = true;
  bool sorted = true;
  for (struct dirent *e; whole && (e = readdir(dir)) != NULL;) {
    struct process p;
    if (e->d_name[0] < '1' || e->d_name[0] > '9' || !read_stat(e->d_name, &p)) continue;
    if (s->count > 0 && s->all[s->count - 1].pid > p.pid) sorted = false;
    whole = add(s, p);
  }
  closedir(dir);
  if (!sorted) qsort(s->all, s->count, sizeof *s->all, by_pid);
  return whole;
}

static struct process *find(struct snapshot *s, pid_t pid) {
  struct process key = {.pid = pid};
  return s->count == 0 ? NULL : bsearch(&key, s->all, s->count, sizeof key, by_pid);
}

static bool is_spared(const struct tree *t, pid_t pid) {
  for (size_t i = 0; i < t->spare_count; i++) {
    if (t->spare[i] == pid) return true;
  }
  return false;
}

/// Neither PID 1 nor anything that it or a process of its has made: those have a parent inside, if only by adoption.
static bool is_outsider(const struct process *p) {
  return p->parent == 0 && p->pid != 1;
}

/// Walks up from each process until something marked is met, then marks the way: linear in the number of processes.
static void mark_members(const struct tree *t, struct snapshot *s) {
  for (size_t i = 0; i < s->count; i++) {
    if (s->all[i].pid == t->root || (t->everyone && is_outsider(&s->all[i]))) s->all[i].mark = SPARED;
    else if (t->spare_below && is_spared(t, s->all[i].pid)) s->all[i].mark = OUTSIDE;
  }
  for (size_t i = 0; i < s->count; i++) {
    int found = UNKNOWN;
    struct process *p = &s->all[i];
    size_t steps = 0;
    for (; found == UNKNOWN; steps++) {
      if (p->mark != UNKNOWN) {
        found = p->mark == OUTSIDE ? OUTSIDE : MEMBER;
      } else if (t->everyone || p->parent == t->root) {
        found = MEMBER;
      } else {
        p = find(s, p->parent);
        // A loop can't be, but the snapshot is not taken in one instant.
        if (p == NULL || steps > s->count) found = OUTSIDE;
      }
    }
    for (p = &s->all[i]; p != NULL && p->mark == UNKNOWN; p = find(s, p->parent)) p->mark = found;
  }
  for (size_t i = 0; i < s->count; i++) {
    if (s->all[i].mark == MEMBER && is_spared(t, s->all[i].pid)) s->all[i].mark = SPARED;
  }
}

static bool members(const struct tree *t, struct snapshot *s) {
  if (!take_snapshot(s)) return false;
  mark_members(t, s);
  size_t kept = 0;
  for (size_t i = 0; i < s->count; i++) {
    if (s->all[i].mark == MEMBER && !s->all[i].ended) s->all[kept++] = s->all[i];
  }
  s->count = kept;
  return true;
}

long tree_signal(const struct tree *t, int signal) {
  struct snapshot s = {0};
  long count = -1;
  if (members(t, &s)) {
    count = (long)s.count;
    for (size_t i = 0; signal != 0 && i < s.count; i++) kill(s.all[i].pid, signal);
  }
  free(s.all);
  return count;
}

long outsiders_signal(int signal) {
  struct snapshot s = {0};
  long count = -1;
  if (take_snapshot(&s)) {
    count = 0;
    for (size_t i = 0; i < s.count; i++) {
      if (!is_outsider(&s.all[i]) || s.all[i].ended) continue;
      count++;
      if (signal != 0) kill(s.all[i].pid, signal);
    }
  }
  free(s.all);
  return count;
}

/// True when every member of `now` was signalled before.
static bool nothing_new(struct snapshot *now, struct snapshot *before) {
  for (size_t i = 0; i < now->count; i++) {
    if (find(before, now->all[i].pid) == NULL) return false;
  }
  return true;
}

void tree_stop_and_kill(const struct tree *t) {
  struct snapshot now = {0}, before = {0};
  uint64_t end = now_ns() + STOP_NS;
  do {
    struct snapshot swap = before;
    before = now;
    now = swap;
    if (!members(t, &now)) break;
    for (size_t i = 0; i < now.count; i++) {
      if (find(&before, now.all[i].pid) == NULL) kill(now.all[i].pid, SIGSTOP);
    }
  } while (!nothing_new(&now, &before) && now_ns() < end);
  for (size_t i = 0; i < now.count; i++) kill(now.all[i].pid, SIGKILL);
  free(now.all);
  free(before.all);
}

/// One round. How many were moved, -1 when one can't be.
static long limit_members(const struct tree *t, struct snapshot *s, bool stop) {
  long moved = 0;
  if (!members(t, s)) return -1;
  for (size_t i = 0; i < s->count; i++) {
    if (groups_is_limited(s->all[i].pid)) continue;
    // What forks faster than it is moved is held still until it is under its limits.
    if (stop) kill(s->all[i].pid, SIGSTOP);
    if (!groups_limit(s->all[i].pid)) return -1;
    moved++;
  }
  return moved;
}

bool tree_limit(const struct tree *t) {
  struct snapshot s = {0};
  long moved = 1;
  int round = 0;
  // A child is born where its parent is, so those outside get fewer, until there are none.
  for (; moved > 0 && round < MOST_ROUNDS; round++) moved = limit_members(t, &s, round >= FREE_ROUNDS);
  free(s.all);
  if (round > FREE_ROUNDS) tree_signal(t, SIGCONT);
  return moved == 0;
}
