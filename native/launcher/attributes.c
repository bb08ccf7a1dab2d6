#define _GNU_SOURCE
#include "attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LIST_MAX = 65536, VALUE_MAX = 65536 };

static const char *path_of(const struct place *p, char *buffer, size_t size) {
  snprintf(buffer, size, "/proc/self/fd/%d/%s", p->fd, p->name);
  return buffer;
}

static ssize_t list_names(const struct place *p, char *list) {
  char path[320];
  return p->name ? llistxattr(path_of(p, path, sizeof path), list, LIST_MAX) : flistxattr(p->fd, list, LIST_MAX);
}

static ssize_t get_value(const struct place *p, const char *name, void *value) {
  char path[320];
  return p->name ? lgetxattr(path_of(p, path, sizeof path), name, value, VALUE_MAX)
                 : fgetxattr(p->fd, name, value, VALUE_MAX);
}

static int set_value(const struct place *p, const char *name, const void *value, size_t size) {
  char path[320];
  return p->name ? lsetxattr(path_of(p, path, sizeof path), name, value, size, 0) : fsetxattr(p->fd, name, value, size, 0);
}

// What a security module of the host labels files with, by rules of its own.
static bool is_label(const char *name) {
  return !strncmp(name, "security.", 9) && strcmp(name, "security.capability") != 0;
}

static int copy_extended(const struct place *from, const struct place *to) {
  static char list[LIST_MAX], value[VALUE_MAX];
  ssize_t length = list_names(from, list);
  if (length < 0) return errno == EOPNOTSUPP ? 0 : -1;
  for (const char *name = list; name < list + length; name += strlen(name) + 1) {
    if (is_label(name)) continue;
    ssize_t size = get_value(from, name, value);
    if (size < 0 || set_value(to, name, value, (size_t)size) < 0) return -1;
  }
  return 0;
}

int copy_attributes(const struct place *from, const struct place *to, const struct stat *st) {
  struct timespec times[] = {st->st_atim, st->st_mtim};
  mode_t mode = st->st_mode & 07777;
  // A new owner takes set-user-ID bits and capabilities away, and all of them change the time of change alone.
  if (to->name) {
    if (fchownat(to->fd, to->name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0) return -1;
    if (!S_ISLNK(st->st_mode) && fchmodat(to->fd, to->name, mode, 0) < 0) return -1;
    if (copy_extended(from, to) < 0) return -1;
    return utimensat(to->fd, to->name, times, AT_SYMLINK_NOFOLLOW);
  }
  if (fchown(to->fd, st->st_uid, st->st_gid) < 0 || fchmod(to->fd, mode) < 0) return -1;
  if (copy_extended(from, to) < 0) return -1;
  return futimens(to->fd, times);
}
