#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

enum { WRITE_PARENTS = 1, WRITE_APPEND = 2, WRITE_MUST_NOT_EXIST = 4, WRITE_FLAGS = 7 };
#define MODE_UNSET UINT32_MAX

struct target {
  const char *path;
  uint32_t mode;
  uint32_t flags;
  int dir;
  entry_name name;
  bool exists;
  struct stat st;
};

static bool fill(int fd, const unsigned char *at, size_t bytes) {
  while (bytes > 0) {
    ssize_t n = write(fd, at, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    at += n;
    bytes -= (size_t)n;
  }
  return true;
}

enum received { RECEIVED_ALL, RECEIVED_LOST, RECEIVED_ERROR };

/// Takes DATA frames until EOF.
static enum received receive_into(int fd, uint64_t *total) {
  // A frame's payload and the header behind it come with one call: after DATA there always is another frame.
  static unsigned char buffer[MAX_DATA + HEADER_BYTES];
  unsigned char header[HEADER_BYTES];
  *total = 0;
  if (!read_exact(FD_CONN, header, sizeof header)) return RECEIVED_LOST;
  for (;;) {
    size_t bytes = get32(header);
    if (header[4] == IN_EOF && bytes == 0) return RECEIVED_ALL;
    if (header[4] != IN_DATA || bytes > MAX_DATA) {
      errno = EPROTO;
      return RECEIVED_ERROR;
    }
    if (!read_exact(FD_CONN, buffer, bytes + HEADER_BYTES)) return RECEIVED_LOST;
    if (!fill(fd, buffer, bytes)) return RECEIVED_ERROR;
    *total += bytes;
    memcpy(header, buffer + bytes, HEADER_BYTES);
  }
}

_Noreturn static void refuse(int error, const char *path) {
  send_error(FD_CONN, error, path);
  linger(FD_CONN);
  _exit(0);
}

/// Looks at what is there. False with errno.
static bool find_target(struct target *t) {
  bool exclusive = (t->flags & WRITE_MUST_NOT_EXIST) != 0;
  size_t length = strlen(t->path);
  if (length == 0 || t->path[length - 1] == '/') {
    errno = length == 0 ? EINVAL : EISDIR;
    return false;
  }
  // As with O_EXCL, a link counts as existing, wherever it leads.
  t->dir = exclusive ? open_parent(t->path, t->name) : open_target(t->path, t->name);
  if (t->dir < 0) return false;
  t->exists = fstatat(t->dir, t->name, &t->st, AT_SYMLINK_NOFOLLOW) == 0;
  if (!t->exists) return errno == ENOENT;
  if (exclusive) errno = EEXIST;
  else if (S_ISDIR(t->st.st_mode)) errno = EISDIR;
  else if (!S_ISREG(t->st.st_mode)) errno = EINVAL;
  else return true;
  return false;
}

static bool make_parents(const char *path) {
  char parent[PATH_MAX];
  snprintf(parent, sizeof parent, "%s", path);
  char *slash = strrchr(parent, '/');
  if (slash == NULL) return false;
  *slash = 0;
  return make_directories(*parent != 0 ? parent : "/", 0755);
}

static void temporary_name(entry_name name) {
  unsigned char random[8] = {0};
  if (getrandom(random, sizeof random, GRND_NONBLOCK) < 0) put32(random, (uint32_t)getpid());
  snprintf(name, sizeof(entry_name), ".warren-%08x%08x", get32(random), get32(random + 4));
}

struct temporary {
  int fd; // for reading too: see rewrite()
  entry_name name; // empty while it has none
};

/// Without a name where that can be had: then nothing is left behind, however this process ends.
static bool make_temporary(int dir, struct temporary *tmp) {
  tmp->name[0] = 0;
  tmp->fd = have_proc() ? openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
  if (tmp->fd >= 0) return true;
  temporary_name(tmp->name);
  tmp->fd = openat(dir, tmp->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (tmp->fd < 0) tmp->name[0] = 0;
  return tmp->fd >= 0;
}

/// Gives an unnamed file a name.
static bool name_temporary(const struct temporary *tmp, int dir, const char *name) {
  char from[32];
  snprintf(from, sizeof from, "self/fd/%d", tmp->fd);
  return linkat(FD_PROC, from, dir, name, AT_SYMLINK_FOLLOW) == 0;
}

static void drop_temporary(struct temporary *tmp, int dir) {
  int error = errno;
  if (tmp->name[0] != 0) unlinkat(dir, tmp->name, 0);
  tmp->name[0] = 0;
  errno = error;
}

static bool set_attributes(const struct target *t, int fd) {
  mode_t mode = t->mode != MODE_UNSET ? t->mode & 07777 : t->exists ? t->st.st_mode & 07777 : 0644;
  if (t->exists && (t->st.st_uid != geteuid() || t->st.st_gid != getegid()) &&
      fchown(fd, t->st.st_uid, t->st.st_gid) != 0) {
    return false;
  }
  // After the owner: changing that clears the set-id bits.
  return fchmod(fd, mode) == 0;
}

/// Puts the temporary file in the target's place in one step. False with errno, and nothing has changed.
static bool publish(const struct target *t, struct temporary *tmp) {
  if (!set_attributes(t, tmp->fd)) return false;
  bool exclusive = (t->flags & WRITE_MUST_NOT_EXIST) != 0;
  if (tmp->name[0] == 0) {
    if (!t->exists) {
      if (name_temporary(tmp, t->dir, t->name)) return true;
      if (errno != EEXIST || exclusive) return false;
    }
    temporary_name(tmp->name);
    if (!name_temporary(tmp, t->dir, tmp->name)) {
      tmp->name[0] = 0;
      return false;
    }
  }
  unsigned how = exclusive ? RENAME_NOREPLACE : 0;
  if (syscall(SYS_renameat2, t->dir, tmp->name, t->dir, t->name, how) == 0) {
    tmp->name[0] = 0;
    return true;
  }
  // Filesystems that know no flags; the temporary name goes afterwards.
  return errno == EINVAL && exclusive && linkat(t->dir, tmp->name, t->dir, t->name, 0) == 0;
}

/// For a target that no other file can take the place of, such as a bind mount.
static bool rewrite(const struct target *t, const struct temporary *tmp) {
  static unsigned char buffer[MAX_DATA];
  int fd = open_regular(t->dir, t->name, O_WRONLY | O_NOFOLLOW);
  if (fd < 0) return false;
  if (ftruncate(fd, 0) != 0) return false;
  for (off_t at = 0;;) {
    ssize_t n = pread(tmp->fd, buffer, sizeof buffer, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    if (n == 0) break;
    if (!fill(fd, buffer, (size_t)n)) return false;
    at += n;
  }
  bool ok = t->mode == MODE_UNSET || fchmod(fd, t->mode & 07777) == 0;
  int error = errno;
  close(fd);
  errno = error;
  return ok;
}

static bool is_refusal(int error) {
  return error == EPERM || error == EACCES || error == EROFS || error == EBUSY || error == EXDEV;
}

/// Where the target's directory takes no new file, the bytes wait elsewhere, so that a broken transfer changes nothing.
static bool make_spool(struct temporary *tmp) {
  static const char *const places[] = {"/tmp", "/var/tmp", "/dev/shm"};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    tmp->fd = open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (tmp->fd >= 0) return true;
  }
  return false;
}

static void replace(struct target *t) {
  struct temporary tmp = {.fd = -1};
  bool in_place = false;
  if (!make_temporary(t->dir, &tmp)) {
    int error = errno;
    in_place = t->exists && is_refusal(error) && make_spool(&tmp);
    if (!in_place) refuse(error, t->path);
  }
  uint64_t total;
  enum received received = receive_into(tmp.fd, &total);
  if (received != RECEIVED_ALL) {
    drop_temporary(&tmp, t->dir);
    if (received == RECEIVED_ERROR) refuse(errno, t->path);
    return;
  }
  bool ok = !in_place && publish(t, &tmp);
  if (!ok && t->exists && (in_place || is_refusal(errno))) ok = rewrite(t, &tmp);
  drop_temporary(&tmp, t->dir);
  if (!ok) refuse(errno, t->path);
  // Whoever is told the end may run the file, which the kernel refuses while somebody can write to it.
  close(tmp.fd);
  send_end(FD_CONN, total);
}

static void append(struct target *t) {
  int fd;
  if (t->exists) {
    fd = open_regular(t->dir, t->name, O_WRONLY | O_APPEND | O_NOFOLLOW);
  } else {
    fd = openat(t->dir, t->name, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && !set_attributes(t, fd)) refuse(errno, t->path);
  }
  struct stat before, after;
  if (fd < 0 || fstat(fd, &before) != 0) refuse(errno, t->path);
  uint64_t total;
  enum received received = receive_into(fd, &total);
  if (received == RECEIVED_ALL && t->exists && t->mode != MODE_UNSET && fchmod(fd, t->mode & 07777) != 0) {
    received = RECEIVED_ERROR;
  }
  if (received == RECEIVED_ALL) {
    close(fd);
    send_end(FD_CONN, total);
    return;
  }
  int error = errno;
  // Taken back where nobody else has written since.
  if (!t->exists) unlinkat(t->dir, t->name, 0);
  else if (fstat(fd, &after) == 0 && after.st_size >= before.st_size &&
           (uint64_t)(after.st_size - before.st_size) <= total + MAX_DATA && ftruncate(fd, before.st_size) != 0) {
    error = errno;
  }
  if (received == RECEIVED_ERROR) refuse(error, t->path);
}

void do_write(struct fields *f) {
  struct target t = {.dir = -1};
  t.path = take_str(f);
  t.mode = take32(f);
  t.flags = take32(f);
  if (f->bad || (t.flags & ~(uint32_t)WRITE_FLAGS) != 0) refuse(EINVAL, t.path);
  bool found = find_target(&t);
  if (!found && errno == ENOENT && (t.flags & WRITE_PARENTS) != 0) {
    found = make_parents(t.path) && find_target(&t);
  }
  if (!found) refuse(errno, t.path);
  if ((t.flags & WRITE_APPEND) != 0) append(&t);
  else replace(&t);
}
