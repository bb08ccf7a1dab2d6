#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REMOVE_TREE = 1, REMOVE_MISSING_OK = 2, REMOVE_FLAGS = 3 };

/// How often a directory is emptied again when somebody keeps filling it.
enum { MOST_ROUNDS = 16 };

// A tree is walked without recursion and with two descriptors, so that its depth costs only memory: a stack holds the
// directories that are still to be entered, and where each that was entered was entered from.
struct level {
  dev_t dev; // of the directory above, which ".." must lead back to
  ino_t ino;
  size_t name_at; // this directory's name, in `names`
  unsigned rounds;
  bool entered;
};

static struct {
  struct level *levels;
  size_t count, room;
  char *names;
  size_t names_used, names_room;
} stack;

static bool push(const char *name) {
  size_t bytes = strlen(name) + 1;
  if (stack.count == stack.room) {
    size_t room = stack.room > 0 ? stack.room * 2 : 64;
    struct level *levels = realloc(stack.levels, room * sizeof *levels);
    if (levels == NULL) return false;
    stack.levels = levels;
    stack.room = room;
  }
  if (stack.names_used + bytes > stack.names_room) {
    size_t room = (stack.names_room + bytes) * 2;
    char *names = realloc(stack.names, room);
    if (names == NULL) return false;
    stack.names = names;
    stack.names_room = room;
  }
  memcpy(stack.names + stack.names_used, name, bytes);
  stack.levels[stack.count++] = (struct level){.name_at = stack.names_used};
  stack.names_used += bytes;
  return true;
}

static void pop(void) {
  stack.names_used = stack.levels[--stack.count].name_at;
}

static int close_and_keep_errno(int fd) {
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/// Removes what is in this directory but for directories that are not empty, which go onto the stack.
static bool empty_directory(int fd) {
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
  if (dir == NULL) return false;
  bool ok = true;
  while (ok) {
    errno = 0;
    struct dirent *e = readdir(dir);
    if (e == NULL) {
      ok = errno == 0;
      break;
    }
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    bool is_dir = e->d_type == DT_DIR;
    if (!is_dir) {
      if (unlinkat(fd, e->d_name, 0) == 0 || errno == ENOENT) continue;
      // EPERM is what POSIX has for a directory; DT_UNKNOWN leads here too.
      is_dir = errno == EISDIR || (errno == EPERM && e->d_type == DT_UNKNOWN);
    }
    if (!is_dir) ok = false;
    else if (unlinkat(fd, e->d_name, AT_REMOVEDIR) != 0 && errno != ENOENT) ok = push(e->d_name);
  }
  int error = errno;
  closedir(dir);
  errno = error;
  return ok;
}

/// Goes from `fd` into the directory at the top of the stack and empties it; `fd` is closed then. When there is no such
/// directory any more, it is taken off and `fd` returned. -1 with errno.
static int enter(int fd) {
  struct level *top = &stack.levels[stack.count - 1];
  const char *name = stack.names + top->name_at;
  struct stat st;
  // Never through a link: the name may have become one.
  int below = openat(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (below < 0) {
    bool gone = errno == ENOENT || ((errno == ENOTDIR || errno == ELOOP) && unlinkat(fd, name, 0) == 0);
    if (!gone) return close_and_keep_errno(fd);
    pop();
    return fd;
  }
  if (fstat(fd, &st) != 0) {
    close_and_keep_errno(below);
    return close_and_keep_errno(fd);
  }
  close(fd);
  top->dev = st.st_dev;
  top->ino = st.st_ino;
  top->entered = true;
  return empty_directory(below) ? below : close_and_keep_errno(below);
}

/// Back up from `fd`, which is closed. Moved elsewhere meanwhile: EBUSY, before anything else is touched.
static int leave(int fd) {
  struct level *top = &stack.levels[stack.count - 1];
  struct stat st;
  int above = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
  close_and_keep_errno(fd);
  if (above < 0) return -1;
  if (fstat(above, &st) != 0) return close_and_keep_errno(above);
  if (st.st_dev != top->dev || st.st_ino != top->ino) {
    errno = EBUSY;
    return close_and_keep_errno(above);
  }
  return above;
}

/// Removes the directory `name` with all that is in it. `fd` is closed.
static bool remove_tree(int fd, const char *name) {
  if (!push(name)) {
    close_and_keep_errno(fd);
    return false;
  }
  while (stack.count > 0) {
    struct level *top = &stack.levels[stack.count - 1];
    if (!top->entered) {
      fd = enter(fd);
      if (fd < 0) return false;
      continue;
    }
    fd = leave(fd);
    if (fd < 0) return false;
    if (unlinkat(fd, stack.names + top->name_at, AT_REMOVEDIR) == 0 || errno == ENOENT) {
      pop();
    } else if ((errno == ENOTEMPTY || errno == EEXIST) && ++top->rounds < MOST_ROUNDS) {
      top->entered = false;
    } else {
      close_and_keep_errno(fd);
      return false;
    }
  }
  close(fd);
  return true;
}

static bool remove_one(int dir, const char *name, bool whole_tree) {
  struct stat st;
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
    errno = EINVAL;
    return false;
  }
  if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (!S_ISDIR(st.st_mode)) return unlinkat(dir, name, 0) == 0;
  if (unlinkat(dir, name, AT_REMOVEDIR) == 0) return true;
  if (!whole_tree || (errno != ENOTEMPTY && errno != EEXIST)) return false;
  return remove_tree(dir, name);
}

void do_remove(struct fields *f) {
  const char *path = take_str(f);
  uint32_t flags = take32(f);
  entry_name name;
  int dir = -1;
  if (f->bad || (flags & ~(uint32_t)REMOVE_FLAGS) != 0) errno = EINVAL;
  else dir = open_parent(path, name);
  bool ok = dir >= 0 && remove_one(dir, name, (flags & REMOVE_TREE) != 0);
  if (ok || (errno == ENOENT && (flags & REMOVE_MISSING_OK) != 0)) send_ok(FD_CONN);
  else send_error(FD_CONN, errno, path);
}
