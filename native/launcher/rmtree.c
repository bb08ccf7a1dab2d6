#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve.h"
#include "sys.h"

// Deeper directories are first moved up into the trash directory, so that neither descriptors nor stack grow with depth.
enum { MOST_DEPTH = 24 };

static int trash_fd;
static uint64_t removed;
static uint32_t moved;

static int remove_contents(int fd, int depth);

static int remove_directory(int parent, const char *name, int depth) {
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0) return 0;
  if (errno != ENOTEMPTY && errno != EEXIST) return -1;
  if (depth > MOST_DEPTH) {
    char place[64];
    snprintf(place, sizeof place, ".deep-%d-%u", (int)getpid(), moved++);
    return renameat(parent, name, trash_fd, place);
  }
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  if (remove_contents(fd, depth) < 0) return -1;
  return unlinkat(parent, name, AT_REMOVEDIR);
}

static int remove_entry(int parent, const char *name, unsigned char type, int depth) {
  removed++;
  if (type != DT_DIR) {
    if (unlinkat(parent, name, 0) == 0) return 0;
    if (errno != EISDIR && errno != EPERM) return -1;
  }
  return remove_directory(parent, name, depth);
}

// Takes over `fd`.
static int remove_contents(int fd, int depth) {
  DIR *dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return -1;
  }
  // What changes while it is read may be listed or not: read again until nothing is found.
  for (bool found = true; found;) {
    found = false;
    rewinddir(dir);
    for (struct dirent *e; (e = readdir(dir));) {
      if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
      if (remove_entry(dirfd(dir), e->d_name, e->d_type, depth + 1) < 0 && errno != ENOENT) {
        int error = errno;
        closedir(dir);
        errno = error;
        return -1;
      }
      found = true;
    }
  }
  closedir(dir);
  return 0;
}

// Removes one entry of a trash directory, with everything below it, and what was moved up from it.
void op_rmtree(struct in *in) {
  char *trash = in_str(in);
  char *name = in_str(in);
  if (in->bad || in->left || trash[0] != '/' || !*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
    answer_error(EBADMSG, "RMTREE");
  trash_fd = open(trash, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (trash_fd < 0) answer_error(errno, "%s", trash);
  struct stat st;
  if (fstatat(trash_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (remove_entry(trash_fd, name, S_ISDIR(st.st_mode) ? DT_DIR : DT_REG, 0) < 0) answer_error(errno, "%s/%s", trash, name);
  } else if (errno != ENOENT) {
    answer_error(errno, "%s/%s", trash, name);
  }
  for (uint32_t i = 0; i < moved; i++) {
    char place[64];
    snprintf(place, sizeof place, ".deep-%d-%u", (int)getpid(), i);
    if (remove_entry(trash_fd, place, DT_DIR, 0) < 0 && errno != ENOENT) answer_error(errno, "%s/%s", trash, place);
  }
  struct out out = {0};
  out_u64(&out, removed);
  answer_ok(&out);
}
