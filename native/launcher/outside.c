// What of outside a sandbox has mounted: volumes, directories and files of the host, and tmpfs, which may lie in one another.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounts.h"
#include "serve.h"
#include "sys.h"
#include "userns.h"
#include "wire.h"

// Where the sandbox's system shows. A link in the image must not lead a mount there, nor over the whole root.
static const char *const own_places[] = {"", "/proc", "/sys", "/dev", "/.warren"};

int take_outside(const struct outside *o, int idmap_fd, bool *is_file) {
  int at = sys_openat2(AT_FDCWD, o->source, O_PATH | O_CLOEXEC, WARREN_RESOLVE_NO_SYMLINKS | WARREN_RESOLVE_NO_MAGICLINKS);
  if (at < 0) answer_error(errno, "could not open %s", o->source);
  struct stat st;
  if (fstat(at, &st) < 0) answer_error(errno, "could not look at %s", o->source);
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) answer_error(ENODEV, "%s is neither a directory nor a file", o->source);
  *is_file = S_ISREG(st.st_mode);
  int tree = sys_open_tree(at, "", WARREN_OPEN_TREE_CLONE | WARREN_AT_EMPTY_PATH | WARREN_AT_RECURSIVE | O_CLOEXEC);
  if (tree < 0) answer_error(errno, "could not take %s", o->source);
  close(at);
  uint64_t attributes = WARREN_MOUNT_ATTR_NOSUID | WARREN_MOUNT_ATTR_NODEV;
  if (!(o->flags & OUTSIDE_WRITABLE)) attributes |= WARREN_MOUNT_ATTR_RDONLY;
  if (sys_mount_setattr(tree, WARREN_AT_RECURSIVE, attributes, -1) < 0)
    answer_error(errno, "could not restrict the mount of %s", o->source);
  if (idmap_fd >= 0 && sys_mount_setattr(tree, WARREN_AT_RECURSIVE, WARREN_MOUNT_ATTR_IDMAP, idmap_fd) < 0)
    answer_error(EOPNOTSUPP, "could not map the ids of %s (errno %d)", o->source, errno);
  return tree;
}

static int make_tmpfs(const struct outside *o, uint32_t owner) {
  char mode[16], id[16];
  snprintf(mode, sizeof mode, "%o", o->flags >> OUTSIDE_MODE_SHIFT & 07777);
  snprintf(id, sizeof id, "%u", owner);
  int fs = sys_fsopen("tmpfs");
  if (fs < 0 || sys_fsconfig_string(fs, "source", "tmpfs") < 0 || sys_fsconfig_string(fs, "size", o->source) < 0 ||
      sys_fsconfig_string(fs, "mode", mode) < 0 || sys_fsconfig_string(fs, "uid", id) < 0 ||
      sys_fsconfig_string(fs, "gid", id) < 0 || sys_fsconfig_create(fs) < 0)
    answer_error(errno, "could not make the tmpfs for %s", o->target);
  unsigned attributes = WARREN_MOUNT_ATTR_NOSUID | WARREN_MOUNT_ATTR_NODEV;
  if (!(o->flags & OUTSIDE_WRITABLE)) attributes |= WARREN_MOUNT_ATTR_RDONLY;
  if (o->flags & OUTSIDE_NOEXEC) attributes |= WARREN_MOUNT_ATTR_NOEXEC;
  int mount = sys_fsmount(fs, attributes);
  if (mount < 0) answer_error(errno, "could not make the tmpfs for %s", o->target);
  close(fs);
  return mount;
}

static void path_of(int fd, char *path, size_t size) {
  char link[48];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, size - 1);
  if (n < 0) answer_error(errno, "could not look at a mount's place");
  path[n] = 0;
}

static void refuse_own_places(int root_fd, int at, const char *target) {
  char root[4200], path[8400];
  path_of(root_fd, root, sizeof root);
  path_of(at, path, sizeof path);
  size_t length = strlen(root);
  if (strncmp(path, root, length) != 0) answer_error(EXDEV, "a mount at %s would leave the root filesystem", target);
  const char *inside = path + length;
  for (size_t i = 0; i < sizeof own_places / sizeof *own_places; i++) {
    size_t own = strlen(own_places[i]);
    bool is_there = own == 0 ? inside[0] == 0 : strncmp(inside, own_places[i], own) == 0 && (inside[own] == 0 || inside[own] == '/');
    if (is_there) answer_error(EPERM, "a link in the image leads the mount at %s to %s", target, own ? own_places[i] : "/");
  }
}

static int stage_place(int stage_fd, uint32_t index, bool is_file) {
  char name[32];
  if (mkdirat(stage_fd, "mounts", 0755) < 0 && errno != EEXIST) answer_error(errno, "could not make the stage");
  snprintf(name, sizeof name, "mounts/%u", index);
  int made = is_file ? openat(stage_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : mkdirat(stage_fd, name, 0755);
  if (made < 0) answer_error(errno, "could not make the stage");
  if (is_file) close(made);
  return openat(stage_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

void mount_outside(const struct outside *o, int root_fd, int stage_fd, uint32_t index, uint32_t owner, int idmap_fd) {
  bool is_file = false;
  int tree = o->flags & OUTSIDE_TMPFS ? make_tmpfs(o, owner) : take_outside(o, idmap_fd, &is_file);
  bool is_staged = o->flags & OUTSIDE_STAGED;
  int at = is_staged ? stage_place(stage_fd, index, is_file) : make_path(root_fd, o->target, owner, is_file);
  if (at < 0) answer_error(errno, "no place for a mount in the root filesystem: %s", o->target);
  if (!is_staged) refuse_own_places(root_fd, at, o->target);
  if (sys_move_mount(tree, "", at, "", WARREN_MOVE_MOUNT_F_EMPTY_PATH | WARREN_MOVE_MOUNT_T_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount at %s", o->target);
  close(tree);
  close(at);
}

// Whether a source can be mounted, without doing it: START would find out only when everything else is made.
void op_check_outside(struct in *in) {
  struct outside o = {.source = in_str(in)};
  if (in->bad || in->left || o.source[0] != '/') answer_error(EBADMSG, "CHECK_OUTSIDE");
  enter_private_mounts();
  // Any ids do.
  int idmap = is_rootless() ? -1 : make_idmap(1, 1);
  bool is_file;
  take_outside(&o, idmap, &is_file);
  struct out out = {0};
  out_u8(&out, is_file);
  answer_ok(&out);
}
