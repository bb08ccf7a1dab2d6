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

static int32_t id_shift;

void shift_ids(int32_t by) { id_shift = by; }

// False with errno where no such id can be.
static bool shift(uint32_t *id) {
  int64_t shifted = (int64_t)*id + id_shift;
  if (shifted < 0 || shifted >= UINT32_MAX) {
    errno = EOVERFLOW;
    return false;
  }
  *id = (uint32_t)shifted;
  return true;
}

static bool shift_at(unsigned char *at) {
  uint32_t id = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
  if (!shift(&id)) return false;
  for (int i = 0; i < 4; i++) at[i] = (unsigned char)(id >> 8 * i);
  return true;
}

// linux/posix_acl_xattr.h: a version, then entries of a tag, permissions and an id, which named users and groups have.
static bool shift_acl(unsigned char *value, size_t size) {
  enum { HEAD = 4, ENTRY = 8, USER = 2, GROUP = 8 };
  for (size_t at = HEAD; at + ENTRY <= size; at += ENTRY)
    if ((value[at] == USER || value[at] == GROUP) && !shift_at(value + at + 4)) return false;
  return true;
}

// linux/capability.h: of version 3 the last number is the id of the root that they count for; version 2, without, is what the
// kernel shows of our own root's.
static bool shift_capability(unsigned char *value, ssize_t *size) {
  enum { VERSION_2 = 20, VERSION_3 = 24 };
  if (*size == VERSION_2) {
    memset(value + VERSION_2, 0, 4);
    *size = VERSION_3;
    value[3] = 3;
  }
  return *size != VERSION_3 || shift_at(value + VERSION_2);
}

static bool shift_value(const char *name, unsigned char *value, ssize_t *size) {
  if (!id_shift) return true;
  if (!strcmp(name, "security.capability")) return shift_capability(value, size);
  return strncmp(name, "system.posix_acl_", 17) != 0 || shift_acl(value, (size_t)*size);
}

static int copy_extended(const struct place *from, const struct place *to) {
  static char list[LIST_MAX];
  static unsigned char value[VALUE_MAX];
  ssize_t length = list_names(from, list);
  if (length < 0) return errno == EOPNOTSUPP ? 0 : -1;
  for (const char *name = list; name < list + length; name += strlen(name) + 1) {
    if (is_label(name)) continue;
    ssize_t size = get_value(from, name, value);
    if (size < 0 || !shift_value(name, value, &size) || set_value(to, name, value, (size_t)size) < 0) return -1;
  }
  return 0;
}

int copy_attributes(const struct place *from, const struct place *to, const struct stat *st) {
  struct timespec times[] = {st->st_atim, st->st_mtim};
  mode_t mode = st->st_mode & 07777;
  uid_t uid = st->st_uid;
  gid_t gid = st->st_gid;
  if (!shift(&uid) || !shift(&gid)) return -1;
  // A new owner takes set-user-ID bits and capabilities away, and all of them change the time of change alone.
  if (to->name) {
    if (fchownat(to->fd, to->name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0) return -1;
    if (!S_ISLNK(st->st_mode) && fchmodat(to->fd, to->name, mode, 0) < 0) return -1;
    if (copy_extended(from, to) < 0) return -1;
    return utimensat(to->fd, to->name, times, AT_SYMLINK_NOFOLLOW);
  }
  if (fchown(to->fd, uid, gid) < 0 || fchmod(to->fd, mode) < 0) return -1;
  if (copy_extended(from, to) < 0) return -1;
  return futimens(to->fd, times);
}
