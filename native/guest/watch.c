#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  MOST_WATCHES = 8192,
  RECURSIVE = 1,
  MASK = IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF,
};
enum event_kind { EVENT_CREATE = 1, EVENT_MODIFY, EVENT_DELETE, EVENT_RENAME, EVENT_ATTRIB, EVENT_OVERFLOW };

struct watched {
  int wd;
  char *path;
};

static struct {
  int fd;
  bool recursive;
  struct watched *all; // by wd
  size_t count, room;
} w;

static size_t position(int wd) {
  size_t low = 0, high = w.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (w.all[middle].wd < wd) low = middle + 1;
    else high = middle;
  }
  return low;
}

static struct watched *find(int wd) {
  size_t i = position(wd);
  return i < w.count && w.all[i].wd == wd ? &w.all[i] : NULL;
}

static void forget(size_t i) {
  free(w.all[i].path);
  memmove(&w.all[i], &w.all[i + 1], (--w.count - i) * sizeof *w.all);
}

/// False with errno.
static bool remember(int wd, const char *path) {
  char *copy = strdup(path);
  if (copy == NULL) return false;
  struct watched *old = find(wd);
  if (old != NULL) {
    // The kernel has one watch for each inode: this is the directory's newer name.
    free(old->path);
    old->path = copy;
    return true;
  }
  if (w.count == w.room) {
    size_t room = w.room > 0 ? w.room * 2 : 16;
    struct watched *all = realloc(w.all, room * sizeof *all);
    if (all == NULL) {
      free(copy);
      return false;
    }
    w.all = all;
    w.room = room;
  }
  size_t i = position(wd);
  memmove(&w.all[i + 1], &w.all[i], (w.count - i) * sizeof *w.all);
  w.all[i] = (struct watched){.wd = wd, .path = copy};
  w.count++;
  return true;
}

static bool send_event(enum event_kind kind, const char *path) {
  unsigned char payload[8 + 2 * PATH_MAX];
  size_t bytes = strnlen(path, sizeof payload - 8);
  put32(payload, kind);
  put32(payload + 4, (uint32_t)bytes);
  memcpy(payload + 8, path, bytes);
  return send_frame(FD_CONN, OUT_EVENT, payload, 8 + bytes);
}

static bool join(char *to, size_t room, const char *dir, const char *name) {
  int n = snprintf(to, room, "%s%s%s", dir, strcmp(dir, "/") == 0 ? "" : "/", name);
  return n > 0 && (size_t)n < room;
}

/// Directories that are still to be watched: a list rather than recursion, which would cost a descriptor for each level.
struct pending {
  char **paths;
  size_t count, room;
};

static bool push(struct pending *p, const char *path) {
  if (p->count == p->room) {
    size_t room = p->room > 0 ? p->room * 2 : 16;
    char **paths = realloc(p->paths, room * sizeof *paths);
    if (paths == NULL) return false;
    p->paths = paths;
    p->room = room;
  }
  p->paths[p->count] = strdup(path);
  return p->paths[p->count] != NULL && ++p->count > 0;
}

/// Finds the directories in one, and tells of all that is in it if it is to be announced. False with errno.
static bool scan(struct pending *p, const char *path, bool is_root, bool announce) {
  int fd = open_plain(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | (is_root ? 0 : O_NOFOLLOW));
  DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
  if (dir == NULL) return true;
  bool ok = true;
  for (struct dirent *e; ok && (e = readdir(dir)) != NULL;) {
    char below[PATH_MAX];
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    if (!join(below, sizeof below, path, e->d_name)) continue;
    struct stat st;
    bool is_dir = e->d_type == DT_DIR;
    if (e->d_type == DT_UNKNOWN) is_dir = fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
    if (announce && !send_event(EVENT_CREATE, below)) _exit(0);
    if (is_dir) ok = push(p, below);
  }
  int error = errno;
  closedir(dir);
  errno = error;
  return ok;
}

static bool add_one(struct pending *p, const char *path, bool is_root, bool announce) {
  if (w.count >= MOST_WATCHES) {
    errno = ENOSPC;
    return false;
  }
  if (is_root) {
    // As every other request, not through a magic link.
    int fd = open_plain(AT_FDCWD, path, O_PATH);
    if (fd < 0) return false;
    close(fd);
  }
  int wd = inotify_add_watch(w.fd, path, MASK | (is_root ? 0 : IN_ONLYDIR | IN_DONT_FOLLOW));
  // What has gone meanwhile is passed over.
  if (wd < 0) return !is_root && errno != ENOSPC && errno != ENOMEM;
  if (!remember(wd, path)) return false;
  return !w.recursive || scan(p, path, is_root, announce);
}

/// Watches `path` and, when recursive, the directories below. False with errno when a limit is reached. A directory too
/// deep for a path is passed over.
static bool add_tree(const char *path, bool is_root, bool announce) {
  struct pending p = {0};
  bool ok = add_one(&p, path, is_root, announce);
  while (ok && p.count > 0) {
    char *next = p.paths[--p.count];
    ok = add_one(&p, next, false, announce);
    int error = errno;
    free(next);
    errno = error;
  }
  int error = errno;
  for (size_t i = 0; i < p.count; i++) free(p.paths[i]);
  free(p.paths);
  errno = error;
  return ok;
}

static bool is_below(const char *path, const char *dir) {
  size_t bytes = strlen(dir);
  return strncmp(path, dir, bytes) == 0 && (path[bytes] == '/' || path[bytes] == 0);
}

/// A directory was moved: its watches have wrong names. Moved inside, it is added again under the new one.
static void drop_tree(const char *path) {
  for (size_t i = w.count; i-- > 0;) {
    if (!is_below(w.all[i].path, path)) continue;
    inotify_rm_watch(w.fd, w.all[i].wd);
    forget(i);
  }
}

static enum event_kind kind_of(uint32_t mask) {
  if ((mask & IN_CREATE) != 0) return EVENT_CREATE;
  if ((mask & (IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF)) != 0) return EVENT_RENAME;
  if ((mask & (IN_DELETE | IN_DELETE_SELF)) != 0) return EVENT_DELETE;
  return (mask & IN_MODIFY) != 0 ? EVENT_MODIFY : EVENT_ATTRIB;
}

/// False with errno when a limit is reached; ends the process when the host has gone.
static bool on_event(const struct inotify_event *e, const char *root) {
  if ((e->mask & IN_Q_OVERFLOW) != 0) {
    if (!send_event(EVENT_OVERFLOW, root)) _exit(0);
    return true;
  }
  struct watched *of = find(e->wd);
  if (of == NULL) return true;
  if ((e->mask & IN_IGNORED) != 0) {
    forget((size_t)(of - w.all));
    return true;
  }
  bool is_self = e->len == 0;
  // A directory below the root tells of itself through the one above it.
  if (is_self && strcmp(of->path, root) != 0) return true;
  char path[2 * PATH_MAX];
  if (is_self) snprintf(path, sizeof path, "%s", of->path);
  else if (!join(path, sizeof path, of->path, e->name)) return true;
  if (!send_event(kind_of(e->mask), path)) _exit(0);
  if (is_self || (e->mask & IN_ISDIR) == 0 || !w.recursive) return true;
  if ((e->mask & (IN_MOVED_FROM | IN_DELETE)) != 0) drop_tree(path);
  if ((e->mask & (IN_CREATE | IN_MOVED_TO)) != 0 && strlen(path) < PATH_MAX) {
    return add_tree(path, false, (e->mask & IN_CREATE) != 0);
  }
  return true;
}

static void follow(const char *root) {
  for (;;) {
    struct pollfd p[2] = {{.fd = w.fd, .events = POLLIN}, {.fd = FD_CONN, .events = POLLIN | POLLRDHUP}};
    if (poll(p, 2, -1) < 0) continue;
    // Nothing may come from the host but its end.
    if (p[1].revents != 0) return;
    _Alignas(struct inotify_event) char buffer[16384];
    ssize_t n = read(w.fd, buffer, sizeof buffer);
    for (ssize_t at = 0; at < n;) {
      const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
      at += (ssize_t)(sizeof *e + e->len);
      if (!on_event(e, root)) {
        send_error(FD_CONN, errno, root);
        return;
      }
    }
  }
}

void do_watch(struct fields *f) {
  char *path = take_str(f);
  uint32_t flags = take32(f);
  for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) path[n - 1] = 0;
  w.recursive = (flags & RECURSIVE) != 0;
  w.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (f->bad || path[0] != '/' || flags > RECURSIVE) errno = EINVAL;
  else if (strlen(path) >= PATH_MAX) errno = ENAMETOOLONG;
  else if (w.fd >= 0 && add_tree(path, true, false)) {
    if (send_ok(FD_CONN)) follow(path);
    return;
  }
  send_error(FD_CONN, errno, path);
}
