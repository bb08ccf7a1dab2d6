// The mounts of one sandbox. All are made in a private mount namespace, which ends with its last process.
#pragma once
#include <stdint.h>

// A new mount namespace from which nothing propagates to the host's, nor back. Ends the worker on failure.
void enter_private_mounts(void);

// A descriptor of a user namespace that maps ids 0..count-1 to base..base+count-1, and id `count` to 0. With the second
// line the mounting root has an id on an idmapped mount; without it overlayfs can't write its work directory and comes up
// read-only.
int make_idmap(uint32_t base, uint32_t count);

// Makes the sandbox's user namespace, which maps ids 0..count-1 to base..base+count-1, and mounts it at the file `target`
// for the container runtime to join. The host id `base` owns it: the kernel charges what is used inside of limits per user
// (inotify instances, queued signals, namespaces) to the owner as well, and root as owner would share its own with all
// sandboxes.
void mount_userns(uint32_t base, uint32_t count, const char *target);

// Mounts the directory `source`, its ids mapped by `idmap_fd` (-1: as they are), at `target` (relative to `target_dir`).
void mount_idmapped(const char *source, int target_dir, const char *target, int idmap_fd);

enum bind_flags { BIND_OPTIONAL = 1, BIND_APART = 2 };
// Mounts the file or directory `source` (without the mounts below it) read-only, nosuid and nodev, at `target` inside the
// directory `root_fd`, through no symbolic link. With BIND_OPTIONAL a missing source or target is passed over. With
// BIND_APART a directory is mounted as an overlay that nothing is written to: its inodes are not the host's, so that its
// sockets and FIFOs lead nowhere, and locks and watches on its files are not felt outside.
void bind_readonly(const char *source, int root_fd, const char *target, uint32_t flags);

// Makes the directory `path` and its missing parents inside the directory `root_fd`, owned by the host id `owner`. What
// can't be made stays missing: the guest says so to whoever needs it.
void make_path(int root_fd, const char *path, uint32_t owner);
