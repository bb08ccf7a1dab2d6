#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

enum {
  STAT_FIXED = 36,
  MOST_STAT = STAT_FIXED + 4 + PATH_MAX,
  MOST_ENTRY = HEADER_BYTES + 4 + NAME_MAX + MOST_STAT,
};

/// Writes the stat record; how many bytes. `name` in `dir` is where a link's target is read.
static size_t put_stat(unsigned char *at, const struct stat *st, int dir, const char *name) {
  put32(at, st->st_mode);
  put32(at + 4, st->st_uid);
  put32(at + 8, st->st_gid);
  put64(at + 12, (uint64_t)st->st_size);
  put64(at + 20, (uint64_t)st->st_mtim.tv_sec);
  put32(at + 28, (uint32_t)st->st_mtim.tv_nsec);
  ssize_t n = 0;
  if (S_ISLNK(st->st_mode)) n = readlinkat(dir, name, (char *)at + STAT_FIXED, PATH_MAX);
  if (n < 0) n = 0;
  put32(at + 32, (uint32_t)n);
  return STAT_FIXED + (size_t)n;
}

void do_read(struct fields *f) {
  static unsigned char buffer[HEADER_BYTES + MAX_DATA];
  const char *path = take_str(f);
  uint64_t offset = take64(f);
  uint64_t left = take64(f);
  struct stat st;
  int fd = -1;
  if (f->bad || offset > INT64_MAX) errno = EINVAL;
  else fd = open_regular(AT_FDCWD, path, O_RDONLY);
  if (fd < 0 || fstat(fd, &st) != 0) {
    send_error(FD_CONN, errno, path);
    return;
  }
  send_frame(FD_CONN, OUT_STAT, buffer, put_stat(buffer, &st, -1, ""));
  // Only as far as it went: a log may grow as fast as it is read. A size of 0 says nothing in /proc and /sys.
  if (st.st_size > 0) {
    uint64_t size = (uint64_t)st.st_size;
    uint64_t rest = offset < size ? size - offset : 0;
    if (left > rest) left = rest;
  }
  uint64_t sent = 0;
  while (left > 0) {
    size_t most = left < MAX_DATA ? (size_t)left : MAX_DATA;
    ssize_t n = pread(fd, buffer + HEADER_BYTES, most, (off_t)(offset + sent));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      send_error(FD_CONN, errno, path);
      return;
    }
    if (n == 0) break;
    put_header(buffer, OUT_DATA, (uint32_t)n);
    if (!write_exact(FD_CONN, buffer, HEADER_BYTES + (size_t)n)) return;
    sent += (uint64_t)n;
    left -= (uint64_t)n;
  }
  send_end(FD_CONN, sent);
}

void do_stat(struct fields *f) {
  enum { FOLLOW = 1 };
  unsigned char record[MOST_STAT];
  const char *path = take_str(f);
  uint32_t flags = take32(f);
  entry_name name;
  struct stat st;
  int dir = -1;
  if (f->bad || flags > FOLLOW) errno = EINVAL;
  else dir = (flags & FOLLOW) != 0 ? open_target(path, name) : open_parent(path, name);
  if (dir < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    send_error(FD_CONN, errno, path);
    return;
  }
  send_frame(FD_CONN, OUT_STAT, record, put_stat(record, &st, dir, name));
}

void do_list(struct fields *f) {
  static unsigned char buffer[MAX_REPLY];
  const char *path = take_str(f);
  uint32_t most = take32(f);
  int fd = -1;
  DIR *dir = NULL;
  if (f->bad || path[0] != '/') errno = EINVAL;
  else fd = open_plain(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (fd >= 0) dir = fdopendir(fd);
  if (dir == NULL) {
    send_error(FD_CONN, errno, path);
    return;
  }
  size_t used = 0;
  uint32_t count = 0;
  for (;;) {
    errno = 0;
    struct dirent *e = readdir(dir);
    if (e == NULL) break;
    struct stat st;
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    // Gone since: as if it had gone before.
    if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (count++ == most) {
      errno = E2BIG;
      break;
    }
    if (sizeof buffer - used < MOST_ENTRY) {
      if (!write_exact(FD_CONN, buffer, used)) return;
      used = 0;
    }
    unsigned char *at = buffer + used;
    size_t name_bytes = strnlen(e->d_name, NAME_MAX);
    put32(at + HEADER_BYTES, (uint32_t)name_bytes);
    memcpy(at + HEADER_BYTES + 4, e->d_name, name_bytes);
    size_t bytes = 4 + name_bytes;
    bytes += put_stat(at + HEADER_BYTES + bytes, &st, fd, e->d_name);
    put_header(at, OUT_ENTRY, (uint32_t)bytes);
    used += HEADER_BYTES + bytes;
  }
  int error = errno;
  write_exact(FD_CONN, buffer, used);
  if (error != 0) send_error(FD_CONN, error, path);
  else send_end(FD_CONN, count);
}

static void reply(bool ok, const char *what) {
  if (ok) send_ok(FD_CONN);
  else send_error(FD_CONN, errno, what);
}

void do_mkdir(struct fields *f) {
  enum { PARENTS = 1 };
  const char *path = take_str(f);
  mode_t mode = take32(f) & 07777;
  uint32_t flags = take32(f);
  entry_name name;
  bool ok = false;
  if (f->bad || flags > PARENTS) {
    errno = EINVAL;
  } else if ((flags & PARENTS) != 0) {
    ok = make_directories(path, mode);
  } else {
    int dir = open_parent(path, name);
    ok = dir >= 0 && mkdirat(dir, name, mode) == 0;
  }
  reply(ok, path);
}

void do_rename(struct fields *f) {
  enum { NO_REPLACE = 1 };
  const char *from = take_str(f);
  const char *to = take_str(f);
  uint32_t flags = take32(f);
  entry_name from_name, to_name;
  int from_dir = -1, to_dir = -1;
  if (f->bad || flags > NO_REPLACE) errno = EINVAL;
  else from_dir = open_parent(from, from_name);
  if (from_dir < 0) {
    reply(false, from);
    return;
  }
  to_dir = open_parent(to, to_name);
  if (to_dir < 0) {
    reply(false, to);
    return;
  }
  unsigned how = (flags & NO_REPLACE) != 0 ? RENAME_NOREPLACE : 0;
  reply(syscall(SYS_renameat2, from_dir, from_name, to_dir, to_name, how) == 0, from);
}

void do_chmod(struct fields *f) {
  const char *path = take_str(f);
  mode_t mode = take32(f) & 07777;
  entry_name name;
  int dir = -1;
  if (f->bad) errno = EINVAL;
  else dir = open_target(path, name);
  reply(dir >= 0 && fchmodat(dir, name, mode, 0) == 0, path);
}
