#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounts.h"
#include "serve.h"

// Tries what START needs of the filesystem that holds a directory: idmapped mounts, and an overlay on them that can be
// written. The directory holds lower/, fs/upper/, fs/work/ and root/. An error names the step.
void op_check(struct in *in) {
  char *dir = in_str(in);
  if (in->bad || in->left || dir[0] != '/') answer_error(EBADMSG, "CHECK");
  enter_private_mounts();
  if (chdir(dir) < 0) answer_error(errno, "%s", dir);
  int idmap = make_idmap(1879048192, 65536);
  mount_idmapped("lower", AT_FDCWD, "lower", idmap);
  mount_idmapped("fs", AT_FDCWD, "fs", idmap);
  if (mount("overlay", "root", "overlay", MS_NODEV,
            "lowerdir=lower,upperdir=fs/upper,workdir=fs/work,redirect_dir=on,index=off,metacopy=off") < 0)
    answer_error(errno, "could not mount an overlay");
  int fd = open("root/probe", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) answer_error(errno, "could not write to the overlay");
  close(fd);
  unlink("root/probe");
  struct out out = {0};
  answer_ok(&out);
}
