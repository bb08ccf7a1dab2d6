// overwrite PROGRAM: tries in each way that it knows to change the bytes of an executable file (CVE-2019-5736).
#include "probe.h"

#include <sys/mman.h>
#include <sys/stat.h>

static const char *target;

static long finish(int fd) {
  return fd < 0 ? -1 : pwrite(fd, "\177HOSTILE", 8, 0);
}
static long open_for_writing(void) {
  return finish(open(target, O_WRONLY));
}
static long truncate_it(void) {
  return truncate(target, 0);
}
static long reopen(int flags) {
  char link[64];
  int fd = open(target, flags | O_CLOEXEC);
  if (fd < 0) return -1;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  // Busy as long as somebody runs it: the attack waits for that to end.
  for (int i = 0; i < 50; i++) {
    long result = finish(open(link, O_WRONLY));
    if (result >= 0 || errno != ETXTBSY) return result;
    usleep(10000);
  }
  return -1;
}
static long reopen_read(void) {
  return reopen(O_RDONLY);
}
static long reopen_path(void) {
  return reopen(O_PATH);
}
static long chmod_first(void) {
  return chmod(target, 0777) == 0 ? open_for_writing() : -1;
}
static long map_shared(void) {
  int fd = open(target, O_RDWR);
  if (fd < 0) return -1;
  char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return -1;
  at[1] = 'H';
  return 0;
}
static long rename_over(void) {
  int fd = open("/tmp/replacement", O_WRONLY | O_CREAT, 0755);
  if (fd < 0 || finish(fd) < 0) return -1;
  close(fd);
  return rename("/tmp/replacement", target);
}
static long link_elsewhere(void) {
  unlink("/tmp/hard-link");
  if (link(target, "/tmp/hard-link") != 0) return -1;
  int fd = open("/tmp/hard-link", O_WRONLY);
  // The control runs on the host, where nothing may stay.
  unlink("/tmp/hard-link");
  return finish(fd);
}
static long set_attribute(void) {
  return syscall(SYS_setxattr, target, "user.hostile", "x", 1, 0);
}
static long unlink_it(void) {
  return unlink(target);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  target = argv[1];
  ATTEMPT(open_for_writing);
  ATTEMPT(reopen_read);
  ATTEMPT(reopen_path);
  ATTEMPT(chmod_first);
  ATTEMPT(map_shared);
  ATTEMPT(link_elsewhere);
  ATTEMPT(set_attribute);
  ATTEMPT(truncate_it);
  ATTEMPT(rename_over);
  ATTEMPT(unlink_it);
  return 0;
}
