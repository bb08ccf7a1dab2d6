// The mounts of one sandbox. All are made in a private mount namespace, which ends with its last process.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// A new mount namespace from which nothing propagates to the host's, nor back. Ends the worker on failure.
void enter_private_mounts(void);

// A descriptor of a user namespace that maps ids 0..count-1 to base..base+count-1.
int make_idmap(uint32_t base, uint32_t count);

// The same, and id `count` to 0: with that line the mounting root has an id on an idmapped mount; without it overlayfs can't
// write its work directory and comes up read-only.
int make_idmap_with_root(uint32_t base, uint32_t count);

// Makes the sandbox's user namespace, which maps ids 0..count-1 to base..base+count-1, and mounts it at the file `target`
// for the container runtime to join. The host id `base` owns it: the kernel charges what is used inside of limits per user
// (inotify instances, queued signals, namespaces) to the owner as well, and root as owner would share its own with all
// sandboxes.
void mount_userns(uint32_t base, uint32_t count, const char *target);

// Mounts the directory `source`, its ids mapped by `idmap_fd` (-1: as they are), at `target` (relative to `target_dir`).
void mount_idmapped(const char *source, int target_dir, const char *target, int idmap_fd);

enum bind_flags { BIND_OPTIONAL = 1, BIND_APART = 2, BIND_LAST = 4 };
// Mounts the file or directory `source` (without the mounts below it) read-only, nosuid and nodev, at `target` inside the
// directory `root_fd`, through no symbolic link. With BIND_OPTIONAL a missing source or target is passed over. With
// BIND_APART a directory is mounted as an overlay that nothing is written to: its inodes are not the host's, so that its
// sockets and FIFOs lead nowhere, and locks and watches on its files are not felt outside. BIND_LAST
// is for the caller: after what is mounted from outside, so that it is on top.
void bind_readonly(const char *source, int root_fd, const char *target, uint32_t flags);

// What of outside a sandbox shows: ids on disk are those inside, set-user-ID bits and devices have no effect, and with
// OUTSIDE_WRITABLE missing nothing of it, mounts below included, can be written.
enum outside_flags { OUTSIDE_WRITABLE = 1, OUTSIDE_STAGED = 2, OUTSIDE_TMPFS = 4, OUTSIDE_NOEXEC = 8, OUTSIDE_MODE_SHIFT = 16 };

struct outside {
  // An absolute path without links; of a tmpfs its size in bytes.
  const char *source;
  const char *target;
  uint32_t flags;
};

// The source as a mount that is attached nowhere, with the mounts below it. Its path is walked once, through no link.
int take_outside(const struct outside *o, int idmap_fd, bool *is_file);

// Mounts it at its target inside the directory `root_fd`, which is made where it is missing, owned by the host id `owner`:
// links lead to where they lead inside. With OUTSIDE_STAGED it is mounted at `stage_fd`/mounts/`index` instead, for a
// container runtime that mounts it itself.
void mount_outside(const struct outside *o, int root_fd, int stage_fd, uint32_t index, uint32_t owner, int idmap_fd);

// The directory (or file) `path` inside the directory `root_fd`, with O_PATH; what is missing of it is made, owned by the
// host id `owner`. -1 and errno.
int make_path(int root_fd, const char *path, uint32_t owner, bool is_file);
