#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attributes.h"
#include "copydata.h"
#include "serve.h"
#include "sys.h"

// A directory under way. Of those that are far up the descriptors are closed, so that their number doesn't grow with depth.
struct frame {
  int from, to;
  struct stat from_stat, to_stat;
  // Directories in it that are still to be copied, NUL after each.
  char *names;
  size_t used, capacity, at;
};

enum { MOST_OPEN = 64 };

static struct frame *frames;
static size_t depth, room;
static int links_fd;
static dev_t device;
static uint64_t entries, bytes;
static char **skipped;

static _Noreturn void fail(const char *what) { answer_error(errno, "could not copy the layer: %s", what); }

static void *grown(void *data, size_t size) {
  void *p = realloc(data, size);
  if (!p) answer_error(ENOMEM, "could not copy the layer");
  return p;
}

static void remember(struct frame *f, const char *name) {
  size_t length = strlen(name) + 1;
  if (f->capacity - f->used < length) {
    f->capacity = (f->used + length) * 2;
    f->names = grown(f->names, f->capacity);
  }
  memcpy(f->names + f->used, name, length);
  f->used += length;
}

static bool is_skipped(const char *name) {
  for (char **skip = skipped; depth == 1 && *skip; skip++)
    if (!strcmp(*skip, name)) return true;
  return false;
}

static void add_size(const struct stat *st) { bytes += (uint64_t)st->st_blocks * 512; }

static void copy_file(int from, int to, const char *name, const struct stat *expected) {
  int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
  if (in < 0) fail("open");
  struct stat st;
  if (fstat(in, &st) < 0) fail("stat");
  if (!S_ISREG(st.st_mode) || st.st_ino != expected->st_ino) answer_error(ESTALE, "the layer changes while it is copied");
  int out = openat(to, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (out < 0) fail("create");
  if (copy_data(in, out, &st) < 0) fail("data");
  struct place source = {in, NULL}, target = {out, NULL};
  if (copy_attributes(&source, &target, &st) < 0) fail("attributes");
  if (fstat(out, &st) < 0) fail("stat");
  add_size(&st);
  close(in);
  close(out);
}

static bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

// Neither a directory nor a regular file.
static void copy_special(int from, int to, const char *name, const struct stat *st) {
  if (S_ISLNK(st->st_mode)) {
    char value[4097];
    ssize_t length = readlinkat(from, name, value, sizeof value - 1);
    if (length < 0) fail("readlink");
    value[length] = 0;
    if (symlinkat(value, to, name) < 0) fail("symlink");
  } else if (mknodat(to, name, st->st_mode, 0) < 0) {
    fail("mknod");
  }
  struct place source = {from, name}, target = {to, name};
  if (copy_attributes(&source, &target, st) < 0) fail("attributes");
}

// The first of an inode's names is linked in a directory beside the copy, where the others find it: no path to it gets long.
static bool is_linked(int to, const char *name, const char *key) {
  if (linkat(links_fd, key, to, name, 0) == 0) return true;
  // As many as the file system takes: this is the last of them, since the original is no different.
  if (errno == EMLINK && renameat(links_fd, key, to, name) == 0) return true;
  if (errno != ENOENT) fail("link");
  return false;
}

static void copy_entry(int from, int to, const char *name, const struct stat *st) {
  entries++;
  char key[24];
  snprintf(key, sizeof key, "%llx", (unsigned long long)st->st_ino);
  if (st->st_nlink > 1 && is_linked(to, name, key)) return;
  if (S_ISREG(st->st_mode)) copy_file(from, to, name, st);
  else copy_special(from, to, name, st);
  if (st->st_nlink > 1 && linkat(to, name, links_fd, key, 0) < 0) fail("link");
}

// All that is in it and no directory; the directories' names are kept.
static void copy_entries(struct frame *f) {
  struct directory dir;
  start_reading(&dir, f->from);
  for (const char *name; (name = next_name(&dir));) {
    if (is_skipped(name)) continue;
    struct stat st;
    if (fstatat(f->from, name, &st, AT_SYMLINK_NOFOLLOW) < 0) fail("stat");
    if (S_ISDIR(st.st_mode)) {
      remember(f, name);
    } else if (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode) || S_ISFIFO(st.st_mode) || is_whiteout(&st)) {
      copy_entry(f->from, f->to, name, &st);
    }
    // A socket leads nowhere without its process, and nobody inside can make a device.
  }
  if (dir.failed) fail("list");
}

// Takes over both descriptors.
static void enter(int from, int to) {
  if (from < 0 || to < 0) fail("open");
  if (depth == room) {
    room = room ? room * 2 : 64;
    frames = grown(frames, room * sizeof *frames);
  }
  struct frame *f = &frames[depth++];
  *f = (struct frame){.from = from, .to = to};
  if (fstat(from, &f->from_stat) < 0 || fstat(to, &f->to_stat) < 0) fail("stat");
  if (f->from_stat.st_dev != device) answer_error(EXDEV, "there is a mount in the layer");
  if (depth > MOST_OPEN) {
    struct frame *far = &frames[depth - 1 - MOST_OPEN];
    close(far->from);
    close(far->to);
    far->from = far->to = -1;
  }
  entries++;
  copy_entries(f);
}

static int up(int fd, const struct stat *expected) {
  int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat st;
  if (parent < 0 || fstat(parent, &st) < 0) fail("open");
  if (st.st_dev != expected->st_dev || st.st_ino != expected->st_ino) answer_error(ESTALE, "the layer changes while it is copied");
  return parent;
}

static void leave(void) {
  struct frame *f = &frames[depth - 1];
  struct place source = {f->from, NULL}, target = {f->to, NULL};
  if (copy_attributes(&source, &target, &f->from_stat) < 0) fail("attributes");
  struct stat st;
  if (fstat(f->to, &st) < 0) fail("stat");
  add_size(&st);
  if (depth > 1) {
    struct frame *parent = f - 1;
    if (parent->from < 0) {
      parent->from = up(f->from, &parent->from_stat);
      parent->to = up(f->to, &parent->to_stat);
    }
  }
  close(f->from);
  close(f->to);
  free(f->names);
  depth--;
}

static int open_directory(int parent, const char *name) {
  return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void copy_all(int from, int to) {
  enter(from, to);
  while (depth > 0) {
    struct frame *f = &frames[depth - 1];
    if (f->at == f->used) {
      leave();
      continue;
    }
    const char *name = f->names + f->at;
    f->at += strlen(name) + 1;
    if (mkdirat(f->to, name, 0700) < 0) fail("mkdir");
    enter(open_directory(f->from, name), open_directory(f->to, name));
  }
}

static void remove_links(const char *path) {
  struct directory dir;
  start_reading(&dir, links_fd);
  for (const char *name; (name = next_name(&dir));)
    if (unlinkat(links_fd, name, 0) < 0) fail("unlink");
  if (dir.failed || rmdir(path) < 0) fail("unlink");
}

// Copies a directory of overlayfs's with all that it is to overlayfs: owners, modes, times, extended attributes, hard links, holes,
// whiteouts. Neither stack nor descriptors grow with depth, no path is built, and no link is followed.
void op_copy(struct in *in) {
  char *source = in_str(in);
  char *target = in_str(in);
  skipped = in_list(in);
  shift_ids((int32_t)in_u32(in));
  if (in->bad || in->left || source[0] != '/' || target[0] != '/' || strlen(target) > 4000) answer_error(EBADMSG, "COPY");
  // The next engine discards what was being made; until then it waits for the lock, which this process has too.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct pollfd line = {lifeline_fd, 0, 0};
  if (poll(&line, 1, 0) > 0) _exit(0);
  umask(0);
  char links[4096];
  snprintf(links, sizeof links, "%s.links", target);
  int from = open_directory(AT_FDCWD, source);
  struct stat st;
  if (from < 0 || fstat(from, &st) < 0) answer_error(errno, "could not open the layer");
  device = st.st_dev;
  if (mkdir(target, 0700) < 0 || mkdir(links, 0700) < 0) answer_error(errno, "could not make a directory for the copy");
  links_fd = open_directory(AT_FDCWD, links);
  if (links_fd < 0) fail("open");
  copy_all(from, open_directory(AT_FDCWD, target));
  remove_links(links);
  struct out out = {0};
  out_u64(&out, entries);
  out_u64(&out, bytes);
  answer_ok(&out);
}
