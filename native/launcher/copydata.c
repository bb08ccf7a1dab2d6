#define _GNU_SOURCE
#include "copydata.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sys.h"

// linux/fs.h, which musl has no copy of.
#define CLONE_FILE _IOW(0x94, 9, int)

// Up to this size reading and writing is faster than asking where holes are.
enum { SMALL = 128 * 1024, MOST_AT_ONCE = 1 << 30 };

static int copy_by_buffer(int from, int to, off_t at, off_t length) {
  static char buffer[SMALL];
  while (length > 0) {
    ssize_t n = pread(from, buffer, length < SMALL ? (size_t)length : SMALL, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -1 : 0;
    for (ssize_t done = 0; done < n;) {
      ssize_t w = pwrite(to, buffer + done, (size_t)(n - done), at + done);
      if (w < 0 && errno == EINTR) continue;
      if (w < 0) return -1;
      done += w;
    }
    at += n;
    length -= n;
  }
  return 0;
}

static int copy_range(int from, int to, off_t at, off_t length) {
  static bool by_buffer;
  while (!by_buffer && length > 0) {
    ssize_t n = sys_copy_file_range(from, to, at, length < MOST_AT_ONCE ? (size_t)length : MOST_AT_ONCE);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != ENOSYS && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP) return -1;
    if (n <= 0) {
      by_buffer = n < 0;
      break;
    }
    at += n;
    length -= n;
  }
  return copy_by_buffer(from, to, at, length);
}

int copy_data(int from, int to, const struct stat *st) {
  static bool no_clone;
  if (st->st_size == 0) return 0;
  if (!no_clone) {
    if (ioctl(to, CLONE_FILE, from) == 0) return 0;
    if (errno == ENOSPC || errno == EDQUOT || errno == EIO) return -1;
    no_clone = errno != EINVAL; // of this file alone, such as one that may not be shared
  }
  bool is_dense = (off_t)st->st_blocks * 512 >= st->st_size;
  if (is_dense && st->st_size <= SMALL) return copy_by_buffer(from, to, 0, st->st_size);
  if (ftruncate(to, st->st_size) < 0) return -1;
  for (off_t end = 0; end < st->st_size;) {
    off_t start = lseek(from, end, SEEK_DATA);
    if (start < 0 && errno == ENXIO) return 0; // a hole up to the end
    if (start < 0) return errno == EINVAL ? copy_range(from, to, end, st->st_size - end) : -1;
    end = lseek(from, start, SEEK_HOLE);
    if (end < 0) return -1;
    if (copy_range(from, to, start, end - start) < 0) return -1;
  }
  return 0;
}

void start_reading(struct directory *d, int fd) {
  // Another description, so that the position is its own.
  int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  d->dir = own < 0 ? NULL : fdopendir(own);
  d->failed = !d->dir;
}

const char *next_name(struct directory *d) {
  if (!d->dir) return NULL;
  for (;;) {
    errno = 0;
    struct dirent *e = readdir(d->dir);
    if (!e) {
      int error = errno;
      d->failed = error != 0;
      closedir(d->dir);
      d->dir = NULL;
      errno = error;
      return NULL;
    }
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) return e->d_name;
  }
}
